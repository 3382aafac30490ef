import json
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from packager.errors import LoadError, RequestError
from packager.runtime.engine import Message
from packager.runtime.engines.chat_template import ChatTemplate, read_chat_template

HELLO = Path(__file__).resolve().parents[4] / "examples/hello/safetensors/tokenizer.json"
TOKENS = {"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>"}

CHATML = """\
{%- for message in messages %}
    {%- if loop.first and messages[0]['role'] != 'system' %}
        {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
    {%- endif %}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
LLAMA_3 = """\
{{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}
    {{- "Environment: ipython\\n" }}
{%- endif %}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("This model only supports single tool-calls at once!") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
        {{- '{"name": "' + tool_call.name + '", "parameters": ' }}{{- tool_call.arguments | tojson }}{{- "}" }}
        {{- "<|eot_id|>" }}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" }}
        {{- message.content | tojson }}
        {{- "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
MISTRAL = """\
{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- set ns = namespace(index=0) %}
{%- for message in loop_messages %}
    {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
        {{- raise_exception("After the optional system message, roles must alternate user/assistant/user/...") }}
    {%- endif %}
    {%- set ns.index = ns.index + 1 %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token}}
    {%- else %}
        {{- raise_exception("Only user and assistant roles are supported") }}
    {%- endif %}
{%- endfor %}
"""
LOOP_CONTROLS = """\
{% for message in messages %}
    {% if message.role == 'system' %}
        {% continue %}
    {% endif %}
    {% if loop.index > 3 %}
        {% break %}
    {% endif %}
{{ message.role|upper }}: {{ {'text': message.content}|tojson(indent=2) }}
    {% if message.role == 'assistant' %}
        {% generation %}
            {% set text = message.content %}
{{ text }}
        {% endgeneration %}
        {{ text }}
    {% endif %}
{% endfor %}
{{ documents }} {{ tools is none }} {{ pad_token }}|
"""
TEMPLATES = {"chatml": CHATML, "llama-3": LLAMA_3, "mistral": MISTRAL, "loop controls": LOOP_CONTROLS}

QUESTION = Message("user", "Is 1 < 2 & 'é' \"日\"?\n")
CALL = {"id": "1", "type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": "<é>"}}}
CHATS = {
    "one": (QUESTION,),
    "system": (Message("system", "  be brief "), QUESTION),
    "turns": (Message("system", "be brief"), QUESTION, Message("assistant", " yes "), Message("user", "and 2 < 1?")),
    "tools": (QUESTION, Message("assistant", "", (CALL,)), Message("tool", '{"sum": "3"}', tool_call_id="1")),
}


def rendered_by_transformers(source: str, messages: tuple[Message, ...]) -> str:
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(HELLO), **TOKENS)
    plain = [message.plain() for message in messages]
    return tokenizer.apply_chat_template(plain, chat_template=source, tokenize=False, add_generation_prompt=True)


@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_rendered_as_transformers_does(name, chat):
    source, messages = TEMPLATES[name], CHATS[chat]
    template = ChatTemplate(source, TOKENS, "here")
    if (name, chat) == ("mistral", "tools"):
        with pytest.raises(Exception, match="roles must alternate"):
            rendered_by_transformers(source, messages)
        with pytest.raises(RequestError, match="roles must alternate"):
            template.render(messages)
    else:
        assert template.render(messages) == rendered_by_transformers(source, messages)


def test_what_a_template_refuses_names_the_messages():
    with pytest.raises(RequestError, match="refuses them: After the optional system") as caught:
        ChatTemplate(MISTRAL, TOKENS, "here").render((Message("assistant", "hi"),))
    assert caught.value.problems[0].where == "messages"


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages[7].content }}",
        "{{ messages[0].content + 1 }}",
        "{{ 1 // 0 }}",
        "{{ nothing.at.all }}",
        "{{ ().__class__.__base__.__subclasses__() }}",
        "{% for a in range(10 ** 9) %}{% endfor %}",
        "{{ missing() }}",
        "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
    ],
)
def test_a_template_that_fails_is_a_refusal(source):
    with pytest.raises(RequestError, match="the model's chat template refuses them"):
        ChatTemplate(source, TOKENS, "here").render((QUESTION,))


def test_endless_output_is_cut_off():
    source = "{% for a in range(99999) %}{% for b in range(99999) %}{{ messages[0].content }}{% endfor %}{% endfor %}"
    with pytest.raises(RequestError, match="makes more than 33554432 characters"):
        ChatTemplate(source, TOKENS, "here").render((Message("user", "long " * 10_000),))


def test_a_text_that_is_no_template():
    with pytest.raises(LoadError, match=r"line 2") as caught:
        ChatTemplate("a\n{% for %}", TOKENS, "here")
    assert caught.value.problems[0].where == "here"


def write(folder: Path, **settings: object) -> Path:
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def read(folder: Path, replaced: str | None = None, **tokens: str) -> str | None:
    template = read_chat_template(folder, replaced, tokens)
    return None if template is None else template.render((QUESTION,))


def test_read_from_the_tokenizers_settings(tmp_path):
    write(tmp_path, chat_template="{{ bos_token }}{{ eos_token }}", bos_token={"content": "<b>"}, eos_token="<e>")
    assert read(tmp_path) == "<b><e>"


def test_tokens_that_the_settings_do_not_name(tmp_path):
    write(tmp_path, chat_template="{{ bos_token }}{{ eos_token }}{{ unk_token }}", bos_token="<b>", eos_token=None)
    assert read(tmp_path, bos_token="<model>", eos_token="</model>") == "<b></model>"


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ([{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}], "d"),
        ({"tool_use": "t", "default": "d"}, "d"),
        ([{"name": "tool_use", "template": "t"}], None),
        (None, None),
    ],
)
def test_several_templates(tmp_path, template, expected):
    assert read(write(tmp_path, chat_template=template)) == expected


def test_a_file_of_its_own_comes_first_and_the_packages_before_all(tmp_path):
    write(tmp_path, chat_template="settings")
    (tmp_path / "chat_template.jinja").write_text("file é\n")
    assert read(tmp_path) == "file é"
    assert read(tmp_path, "mine") == "mine"


def test_no_settings_no_template(tmp_path):
    assert read(tmp_path) is None
    assert read(tmp_path, "{{ bos_token }}", bos_token="<b>") == "<b>"


@pytest.mark.parametrize("text", ["{", "[]"])
def test_broken_settings(tmp_path, text):
    (tmp_path / "tokenizer_config.json").write_text(text)
    with pytest.raises(LoadError, match="settings cannot be read"):
        read(tmp_path)
