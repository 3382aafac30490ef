import asyncio

from ...computing import Computing, Handle


class Engine:
    def __init__(self, model_path, engine_config=None, trust_remote_code=False, speculative_config=None):
        self.engine_config = engine_config
        self.computing = Computing(engine_config)
        self.computing.gives_logprobs = engine_config.logprobs_mode == "raw_logprobs"
        self._loop_main = None

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path,
        engine_config=None,
        speculative_config=None,
        trust_remote_code=False,
        **kwargs,
    ):
        return cls(pretrained_model_name_or_path, engine_config, trust_remote_code)

    def create_instance(self, cuda_stream_id=0):
        return Handle(self.computing)

    def start_loop(self):
        self._loop_main = asyncio.get_running_loop().create_task(asyncio.Event().wait())
        return True

    async def get_health_status(self):
        return self.computing.health()

    def close(self):
        asyncio.get_running_loop()  # a task is cancelled from its own loop only
        self.computing.closed_in = "the event loop"
        if self._loop_main is not None:
            self._loop_main.cancel()
