import threading

from ..computing import Computing, Handle
from .supported_models import is_supported


class TurboMind:
    def __init__(
        self,
        model_path,
        model_name=None,
        chat_template_name=None,
        engine_config=None,
        trust_remote_code=False,
        **kwargs,
    ):
        assert is_supported(model_path), "turbomind does not support it. Plz try pytorch engine instead."
        self.engine_config = engine_config
        self.computing = Computing(engine_config)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path,
        model_name=None,
        chat_template_name=None,
        engine_config=None,
        trust_remote_code=False,
        **kwargs,
    ):
        return cls(pretrained_model_name_or_path, engine_config=engine_config, trust_remote_code=trust_remote_code)

    def create_instance(self, cuda_stream_id=0):
        return Handle(self.computing)

    async def get_health_status(self):
        return self.computing.health()

    def close(self):
        main = threading.current_thread() is threading.main_thread()
        self.computing.closed_in = "the event loop" if main else "a thread"
