"""simulator: an OpenAI-Realtime server of our own, for trying the relay and for tests.

The nouns, in the order in which data meets them:

Request
    One client event, read strictly by `requests`: what the API refuses is a `Refusal` with the
    API's code. This reading is on purpose not `relay.realtime`'s, so that each checks the other.

Conversation
    One session, in `conversation`. Requests and the time go in, server events come out. It has no
    clock, no socket and no randomness; the machines it is made of have a file each: `ear` (the
    input buffer and voice activity), `items`, `response`.

Responder
    What the model would say, in `responder`: the scripted turns of a `Script`, else plain rules.

Voice
    Sound for a text, in `voice`: made-up syllables, as long as the text.

Server
    `serve_simulator`, in `server`: one WebSocket and one nursery for each conversation.
"""
