"""One pure-ASGI app for every host.

app.py       routes, lifespan, the last word on errors
http.py      one request: body, JSON, answers, the client's departure
sse.py       a Generation as server-sent events
openai.py    /v1/chat/completions, /v1/completions, /v1/models
predict.py   /predict
describe.py  /openapi.json
bento.py     the app inside a BentoML service
"""
