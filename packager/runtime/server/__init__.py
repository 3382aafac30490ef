"""One pure-ASGI app for every host.

app.py       routes, lifespan, the last word on errors
guard.py     what passes before a route: sizes, API key, the page's origin
keys.py      API keys; bounds.py the sizes and times; strictjson.py the bodies
protocol.py  the same before there is a request: uvicorn's protocol, bounded
answer.py    a parsed request submitted, answered and noted
http.py      one request: body, JSON, answers, the client's departure
sse.py       a Generation as server-sent events
choices.py   several choices, log probabilities, tool calls
openai.py    what OpenAI's routes share, /v1/models
openai_chat.py, openai_completion.py
             /v1/chat/completions, /v1/completions
predict.py   /predict
triton.py    /v2: Triton's generate extension; tensors.py its infer
describe.py  /openapi.json
bento.py     the app inside a BentoML service
"""
