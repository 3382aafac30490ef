"""`packager engine`: compiled engines, where they are compiled."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .console import Console
from .progress import Progress

if TYPE_CHECKING:
    from ..weights.compiled import EngineBuild, SourceModel


@click.group("engine", no_args_is_help=False)
def command() -> None:
    """Work on compiled engines.

    TensorRT's engines run on the kind of GPU and with the software that compiled them, and on nothing else.
    """


@command.command("describe")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--gpu-memory",
    "memory",
    type=click.IntRange(1),
    metavar="MIB",
    help="What a GPU must have to run it, where that is less than the GPU here has.",
)
@click.option("--image", metavar="REFERENCE", help="The image that compiled it, best by digest.")
@click.option("--source-model", metavar="REPO@REVISION", help="The weights that were compiled.")
@click.option("--force", is_flag=True, help="Replace an engine.json that says something else.")
@click.pass_obj
def describe(
    console: Console, folder: Path, memory: int | None, image: str | None, source_model: str | None, *, force: bool
) -> None:
    """Write the engine.json of the compiled engine in FOLDER.

    Run it on the machine that compiled the engine, in the same image: the file records that machine's GPU, driver,
    TensorRT and TensorRT-LLM, and the sha256 of every file. Packages compare it with the machine that they are loaded
    on before they fetch anything. It needs nvidia-ml-py (`pip install 'llm-packager[nvml]'`).
    """
    from ..convert.describe import Told, look, write_description
    from ..convert.describe import describe as described
    from ..runtime.machine import find_machine

    told = Told(memory, image, _source(source_model))
    found = look(folder)
    machine = find_machine()
    with Progress.start(quiet=console.quiet) as progress:
        build = described(found, machine, told, progress.stage)
    path = write_description(folder, build, force=force)
    _table(path, build, console)


def _source(text: str | None) -> "SourceModel | None":
    from ..weights.compiled import SourceModel

    if text is None:
        return None
    found = re.fullmatch(r"([^@\s]+)@([^@\s]+)", text)
    if found is None:
        raise click.BadParameter(f"'{text}' is not REPO@REVISION", param_hint="'--source-model'")
    return SourceModel(found[1], found[2])


def _table(path: Path, build: "EngineBuild", console: Console) -> None:
    gpu, split, limits = build.gpu, build.mapping, build.limits
    console.result(f"engine    {path}")
    console.result(f"software  TensorRT-LLM {build.tensorrt_llm}, TensorRT {build.tensorrt}, CUDA {build.cuda}")
    console.result(f"runs on   {gpu.name}: compute capability {gpu.sm}, {gpu.memory_mib:,} MiB; {build.os}")
    console.result(f"split     {split.world_size}: tensor {split.tp}, pipeline {split.pp}, context {split.cp}")
    console.result(
        f"limits    {limits.max_batch_size:,} requests, {limits.max_input_len:,} tokens in, "
        f"{limits.max_seq_len:,} with the answer, {limits.max_num_tokens:,} at once, {limits.max_beam_width} beams"
    )
    quantized = f"weights {build.quant_algo or 'as they are'}, KV cache {build.kv_cache_quant_algo or 'as it is'}"
    console.result(f"numbers   {build.dtype}; {quantized}; LoRA {'yes' if build.lora else 'no'}")
    console.result(f"files     {len(build.files)} ({sum(one.size for one in build.files.values()):,} bytes)")
