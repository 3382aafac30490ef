"""The test of merging is collected where PEFT is: in the environment of transformers (`.ci/engines.py test`)."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("peft") else ["test_convert_merge.py"]
