"""Carries out a conversion. Nothing stands under the output's name before all of it is there, described and on disk."""

import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.version import Version

from ..digest import canonical_json, sha256_hex
from ..errors import MismatchError, OutputError, Problem
from ..lock.built import check_built, facts_of_built
from ..lock.gates import check_weights
from ..lock.hardware import gpu_of
from ..lock.tokenizer import TOKENIZER_FILES
from ..lock.tools import Tools
from ..manifest import WeightsManifest
from ..package.output import Output, hold
from ..runtime.machine import find_machine
from ..spec.load import SpecFile
from ..weights.compiled import CONFIG, EngineBuild, Machine, SourceModel
from ..weights.load import fetch_weights, lay_out
from ..weights.watch import SILENT, Watch
from .describe import Told, describe, look, write_description
from .plan import ConvertPlan, conversion_of
from .source import TOKENIZER, WORDS, is_weights, lock_found, lock_tokenizer
from .step import Step, python_of, run_step

_DISTRIBUTION = "tensorrt-llm"
_ALONE = {"HF_HUB_OFFLINE": "1"}
"""What a step needs is there: the hub is not asked for more."""
_NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}


def convert(plan: ConvertPlan, file: SpecFile, told: Told, tools: Tools, watch: Watch = SILENT) -> EngineBuild:
    """Make the engine of `plan`, and give its description. Blocks. `told` says what engine.json records beside what is found.

    Raises MismatchError on a machine that cannot, before anything is fetched, OutputError for an output folder that has files or a
    disk too small, LoadError and the like for weights, ConvertError when a step fails, SpecError when what came out is
    not what the spec says (it is kept then).
    """
    machine = check_here(plan, file, told)
    check_output(plan)
    with hold(plan.output.parent, plan.output.name) as output:
        model = lock_found(plan.model, tools, conversion_of(file).trusted_code)
        tokenizer = _tokenizer(file, model, tools)
        folder = _fetched(model, tools, watch)
        work, origin = output.scratch(), _name(model)
        if plan.adapter is not None:
            adapter = lock_found(plan.adapter, tools, {})
            origin += f" + {_name(adapter)}@{_revision(adapter)}"
            folder = _merged(plan, folder, _fetched(adapter, tools, watch), work, tools)
        engine = _compiled(plan, folder, work, output, tools)
        told = replace(
            told,
            source_model=SourceModel(origin, _revision(model)),
            tokenizer_sha256=tokenizer,
            max_input_len=plan.build.limits.max_input_len,
        )
        build = describe(look(engine), machine, told, lambda title, _: tools.stage(title))
        write_description(engine, build, force=False)
        _sync(engine)
        output.commit()
    tools.say(f"the engine is in {plan.output}")
    value = build.to_value()
    check_weights(file, facts_of_built(value), tools.say)
    check_built(file, value)
    return build


def check_here(plan: ConvertPlan, file: SpecFile, told: Told) -> Machine:
    """The machine that this is, which will compile. Raises MismatchError with every reason why it cannot."""
    there = f"run it in {plan.image} on a machine with {plan.gpus} {plan.gpu}: `--dry-run` shows how"
    try:
        found = version(_DISTRIBUTION)
    except PackageNotFoundError as error:
        raise MismatchError("TensorRT-LLM, which compiles the engine, is not installed here", mend=there) from error
    machine = find_machine()
    problems = []
    if Version(found).public != Version(plan.version).public:
        what = f"the engine is for TensorRT-LLM {plan.version}; {found} is installed here"
        problems.append(Problem(what, file.where("engine", "version"), f"{there}; or write `engine.version: {found}`"))
    if not re.fullmatch(r"\d+(\.\d+){3}", machine.tensorrt):
        what = f"one TensorRT must be installed here; found is {machine.tensorrt or 'none'}"
        problems.append(Problem(what, mend=there))
    problems += _gpus(plan, file, machine, told)
    if problems:
        raise MismatchError.collect(problems)
    return machine


def check_output(plan: ConvertPlan) -> None:
    """Raise OutputError unless the engine can be written where it was asked for."""
    path = plan.output
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        what = "the output folder is not empty" if path.is_dir() else "a file stands where the output goes"
        raise OutputError(what, where=str(path), mend="choose another folder with --output, or remove this one")
    there = next(one for one in path.parents if one.exists())
    free = shutil.disk_usage(there).free
    if free < plan.needs.disk:
        what = f"the disk has {free / 1e9:,.1f} GB free, and the conversion takes up to {plan.needs.disk / 1e9:,.1f} GB"
        raise OutputError(what, where=str(there), mend="free space there, or choose another folder with --output")


def _gpus(plan: ConvertPlan, file: SpecFile, machine: Machine, told: Told) -> Iterator[Problem]:
    kinds = sorted({(gpu.name, gpu.sm) for gpu in machine.gpus})
    seen = ", ".join(f"{name} ({sm})" for name, sm in kinds) or "none"
    where, named = file.where("hardware", "gpu"), gpu_of(file.spec)
    if {sm for _, sm in kinds} != {plan.capability}:
        what = f"the engine is for {plan.gpu}, of compute capability {plan.capability}; seen here: {seen}"
        yield Problem(what, where, "compile it where such GPUs are, and let it see those alone (CUDA_VISIBLE_DEVICES)")
    elif len(kinds) > 1:
        yield Problem(f"one kind of GPU compiles an engine; seen here: {seen}", where, "set CUDA_VISIBLE_DEVICES")
    elif len(machine.gpus) < plan.gpus:
        what = f"the engine is split over {plan.gpus} GPUs; {len(machine.gpus)} can be seen here"
        yield Problem(what, where, "give it more GPUs (CUDA_VISIBLE_DEVICES, or the container's `--gpus`)")
    else:
        has = machine.gpus[0].memory_mib
        needs = told.memory_mib or has
        mend = "say what the engine needs, where that is less: --gpu-memory MIB"
        if needs > has:
            yield Problem(f"a GPU with {needs} MiB is asked for; the one here has {has}", "--gpu-memory", mend)
        if named is not None and needs > named.memory * 1024:
            what = (
                f"an engine that is compiled on {seen} is taken to need its {has} MiB; {plan.gpu} has {named.memory} GB"
            )
            yield Problem(what, where, f"compile it on {plan.gpu}, or {mend}")


def _tokenizer(file: SpecFile, model: WeightsManifest, tools: Tools) -> str | None:
    """The sha256 of the tokenizer that the spec takes from elsewhere; the lock will hold the engine to it."""
    found = lock_tokenizer(file, tools)
    if found is None:
        return None
    own = next((one.sha256 for one in model.files if one.path == TOKENIZER), found)
    if own != found:
        tools.say(f"`weights.tokenizer` names another {TOKENIZER} than the model's own: {found[:12]}, not {own[:12]}")
    return found


def _fetched(weights: WeightsManifest, tools: Tools, watch: Watch) -> Path:
    """The folder of the weights, in the store: what was fetched before is not fetched again."""
    tools.stage(f"fetch {weights.source}")
    fetch_weights([weights], tools.store, watch)
    return lay_out([weights], tools.store)


def _merged(plan: ConvertPlan, model: Path, adapter: Path, work: Path, tools: Tools) -> Path:
    tools.stage("merge the adapter")
    target = work / "merged"
    task = {"model": str(model), "adapter": str(adapter), "save": str(target), "own_code": plan.build.own_code}
    run_step(Step("merge", task, {**_ALONE, **_NO_GPU}), work, python_of(_DISTRIBUTION), tools.say)
    _copy(model, target, lambda name: not is_weights(name))
    return target


def _compiled(plan: ConvertPlan, model: Path, work: Path, output: Output, tools: Tools) -> Path:
    """A staged folder with the engine, and with the tokenizer as the model has it."""
    tools.stage(f"compile for {plan.gpus} {plan.gpu}")
    target = output.stage(plan.output.name)
    calls = plan.build.calls(str(model), str(work))
    task = {"calls": calls, "save": str(target)}
    run_step(Step("tensorrt_llm", task, _hub(calls)), work, python_of(_DISTRIBUTION), tools.say)
    leaves = () if plan.tokenizer else TOKENIZER_FILES
    for path in sorted(target.iterdir()):
        if path.suffix == ".py" or path.name in leaves:  # TensorRT-LLM saves a tokenizer with the code that it brings
            path.unlink()
    _copy(model, target, lambda name: name.endswith(WORDS) and not is_weights(name) and name not in (CONFIG, *leaves))
    return target


def _hub(calls: Mapping[str, Mapping[str, object]]) -> Mapping[str, str]:
    """A data set that has a name is fetched, by TensorRT-LLM."""
    dataset = str(calls.get("CalibConfig", {}).get("calib_dataset", "/"))
    return _ALONE if dataset.startswith("/") else {}


def _copy(model: Path, target: Path, takes: Callable[[str], bool]) -> None:
    """Files as the model has them: what libraries write anew is of their version."""
    for path in model.iterdir():
        if path.is_file() and takes(path.name):
            shutil.copyfile(path, target / path.name)


def _name(weights: WeightsManifest) -> str:
    """Whose weights, in engine.json: a repository, or what a folder of this machine is called."""
    source = weights.source
    return Path(source).name if source.startswith("file://") else source.removeprefix("hf://")


def _revision(weights: WeightsManifest) -> str:
    """The commit, or where there is none a digest of all files."""
    return weights.revision or sha256_hex(canonical_json([[one.path, one.sha256] for one in weights.files]))


def _sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
