"""What the runtime counts, and its Prometheus text.

Only the engine's event loop writes, once a token, so the values are plain numbers without locks;
prometheus_client does the exposition alone. (Its own counters take a lock a token, and turn
into shared files under BentoML, which would expose them twice.)
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from .loading import Loading

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_OUTCOMES = ("stop", "length", "tool_calls", "abort", "error", "refused")
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Histogram:
    """Counts of observed seconds by bucket."""

    __slots__ = ("_buckets", "_counts", "_sum")

    def __init__(self, buckets: tuple[float, ...] = _SECONDS) -> None:
        self._buckets = buckets
        self._counts = [0] * (len(buckets) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one observation."""
        self._counts[bisect_left(self._buckets, seconds)] += 1
        self._sum += seconds

    def family(self, name: str, text: str) -> HistogramMetricFamily:
        """The histogram in Prometheus's words: cumulative buckets."""
        bounds = [*(str(bucket) for bucket in self._buckets), "+Inf"]
        family = HistogramMetricFamily(name, text)
        counts = [float(count) for count in accumulate(self._counts)]
        family.add_metric([], list(zip(bounds, counts, strict=True)), self._sum)
        return family


class Metrics(Collector):
    """The numbers of one served model. Written by the engine's event loop only, but for `loading`."""

    def __init__(self) -> None:
        self.running = 0
        self.waiting = 0
        self.ready = False
        self.prompt_tokens = 0
        self.generated_tokens = 0
        self.engine_restarts = 0
        self.queue_wait = Histogram()
        self.first_token = Histogram()
        self.token_gap = Histogram()
        self.outcomes: dict[str, int] = dict.fromkeys(_OUTCOMES, 0)
        self.loading = Loading()
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def text(self) -> str:
        """The exposition, in Prometheus's text format."""
        return generate_latest(self._registry).decode()

    def collect(self) -> Iterable[Metric]:
        """For prometheus_client: every metric, now."""
        yield from self._gauges()
        yield from self._loads()
        yield from self._counters()
        yield self.queue_wait.family("packager_queue_wait_seconds", "Time from a request's arrival to its slot")
        yield self.first_token.family(
            "packager_first_token_seconds", "Time from a request's arrival to its first token"
        )
        yield self.token_gap.family("packager_token_gap_seconds", "Time between two tokens of one stream")

    def _gauges(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("packager_ready", "1 when requests are served", value=float(self.ready))
        yield GaugeMetricFamily("packager_requests_running", "Requests that hold a slot", value=self.running)
        yield GaugeMetricFamily("packager_requests_waiting", "Requests that wait for a slot", value=self.waiting)

    def _loads(self) -> Iterator[Metric]:
        now = self.loading.now()
        phases = GaugeMetricFamily(
            "packager_load_seconds",
            "Time each phase of loading took, or has taken so far: resolve, verify, download, engine",
            labels=["phase"],
        )
        for phase, seconds in now.seconds.items():
            phases.add_metric([phase], seconds)
        yield phases
        yield GaugeMetricFamily("packager_load_bytes", "Bytes of the phase of loading that runs", value=now.total)
        yield GaugeMetricFamily("packager_load_done_bytes", "Those of them that are done", value=now.done)
        yield CounterMetricFamily("packager_fetched_bytes", "Bytes of weights fetched", value=now.fetched)
        yield CounterMetricFamily("packager_fetch_retries", "Transfers tried again", value=now.retries)

    def _counters(self) -> Iterator[Metric]:
        yield CounterMetricFamily("packager_prompt_tokens", "Tokens read", value=self.prompt_tokens)
        yield CounterMetricFamily("packager_generated_tokens", "Tokens written", value=self.generated_tokens)
        yield CounterMetricFamily(
            "packager_engine_restarts", "Times the engine was started again after it died", value=self.engine_restarts
        )
        outcomes = CounterMetricFamily(
            "packager_requests",
            "Requests by outcome: stop, length, tool_calls, abort (ended by the client), error, refused (not taken)",
            labels=["outcome"],
        )
        for outcome, count in self.outcomes.items():
            outcomes.add_metric([outcome], count)
        yield outcomes
