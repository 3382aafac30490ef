"""What the user says: the spec, read strictly, with every problem at its line."""

from .conversion import CalibrationSpec, ConversionSpec, MergeSpec
from .engine import CTranslate2Spec, EchoSpec, EngineSpec, LlamaCppSpec, TransformersSpec, VllmSpec
from .hardware import HardwareSpec
from .image import BaseSpec, DebianBase, ImageSpec, LayoutBase, RegistryBase
from .load import SPEC_NAME, SpecFile, load_spec
from .model import ModelSpec, Quantization, dump_spec
from .schema import json_schema
from .serving import ServingSpec
from .weights import AdapterSpec, WeightsSpec

__all__ = [
    "SPEC_NAME",
    "AdapterSpec",
    "BaseSpec",
    "CTranslate2Spec",
    "CalibrationSpec",
    "ConversionSpec",
    "DebianBase",
    "EchoSpec",
    "EngineSpec",
    "HardwareSpec",
    "ImageSpec",
    "LayoutBase",
    "LlamaCppSpec",
    "MergeSpec",
    "ModelSpec",
    "Quantization",
    "RegistryBase",
    "ServingSpec",
    "SpecFile",
    "TransformersSpec",
    "VllmSpec",
    "WeightsSpec",
    "dump_spec",
    "json_schema",
    "load_spec",
]
