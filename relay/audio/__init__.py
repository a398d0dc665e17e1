"""audio: encodings, sample alignment, transcoders, and what has been heard.

It knows samples and milliseconds. It knows no message, no event and no socket.

Importing a module of this package never imports another one's weight: `formats` and `playback` need
msgspec only, so the session may have them; `g711` and `transcode` need numpy.
"""
