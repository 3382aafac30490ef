"""FastAPI with one pydantic object a token, as vLLM's own server has it."""

import time
from collections.abc import AsyncIterator

from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from source import tokens

app = FastAPI()


class Question(BaseModel):
    prompt: str


class Choice(BaseModel):
    index: int
    text: str
    finish_reason: str | None = None


class Chunk(BaseModel):
    id: str
    object: str = "text_completion"
    created: int
    model: str
    choices: list[Choice]


@app.post("/generate")
async def generate(question: Question) -> StreamingResponse:
    return StreamingResponse(_events(question.prompt), media_type="text/event-stream")


async def _events(prompt: str) -> AsyncIterator[str]:
    created = int(time.time())
    async for delta in await tokens(prompt):
        if delta.text:
            chunk = Chunk(id="cmpl-1", created=created, model="echo", choices=[Choice(index=0, text=delta.text)])
            yield f"data: {chunk.model_dump_json()}\n\n"
    yield "data: [DONE]\n\n"
