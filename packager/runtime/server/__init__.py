"""One pure-ASGI app for every host.

app.py       routes, lifespan, the last word on errors
answer.py    a parsed request submitted, answered and noted
http.py      one request: body, JSON, answers, the client's departure
sse.py       a Generation as server-sent events
choices.py   several choices, log probabilities, tool calls
openai.py    what OpenAI's routes share, /v1/models
openai_chat.py, openai_completion.py
             /v1/chat/completions, /v1/completions
predict.py   /predict
describe.py  /openapi.json
bento.py     the app inside a BentoML service
"""
