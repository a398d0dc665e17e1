/* ws: as much of RFC 6455, base64 and JSON as the benchmark's C programs need, in both roles.

   It knows frames, handshakes and members of a JSON object. It does no I/O, and knows neither
   Deepgram nor OpenAI. The peer is a program under test: what is malformed is reported, not mended.
*/
#ifndef BENCH_WS_H
#define BENCH_WS_H

#include <ctype.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/types.h>

/* -- bytes ------------------------------------------------------------------------------------ */

struct bytes {
    uint8_t *data;
    size_t len, room;
};

/* Where `more` bytes can be written behind what is there; `len` is the caller's to move. */
static inline uint8_t *bytes_room(struct bytes *b, size_t more) {
    if (b->len + more > b->room) {
        b->room = (b->len + more) * 3 / 2 + 256;
        b->data = realloc(b->data, b->room);
        if (!b->data) abort();
    }
    return b->data + b->len;
}

static inline void bytes_add(struct bytes *b, const void *data, size_t len) {
    if (len) memcpy(bytes_room(b, len), data, len);
    b->len += len;
}

static inline void bytes_drop(struct bytes *b, size_t len) {
    b->len -= len;
    if (b->len) memmove(b->data, b->data + len, b->len);
}

static inline void bytes_free(struct bytes *b) {
    free(b->data);
    *b = (struct bytes){0};
}

/* -- base64 ----------------------------------------------------------------------------------- */

static const char B64_ALPHABET[] =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
static char b64_pairs[4096][2];       /* 12 bits -> two characters */
static uint32_t b64_values[4][256];   /* character -> its 6 bits in place; bit 31: not one */

static inline void b64_prepare(void) {
    for (int i = 0; i < 4096; i++) {
        b64_pairs[i][0] = B64_ALPHABET[i >> 6];
        b64_pairs[i][1] = B64_ALPHABET[i & 63];
    }
    memset(b64_values, 0xff, sizeof b64_values);
    for (uint32_t i = 0; i < 64; i++)
        for (int place = 0; place < 4; place++)
            b64_values[place][(uint8_t)B64_ALPHABET[i]] = i << (18 - 6 * place);
}

static inline size_t b64_length(size_t len) { return (len + 2) / 3 * 4; }

/* Writes b64_length(len) characters. */
static inline void b64_encode(char *out, const uint8_t *in, size_t len) {
    for (; len >= 3; len -= 3, in += 3, out += 4) {
        memcpy(out, b64_pairs[in[0] << 4 | in[1] >> 4], 2);
        memcpy(out + 2, b64_pairs[(in[1] & 15) << 8 | in[2]], 2);
    }
    if (len) {
        uint8_t last = len == 2 ? in[1] : 0;
        memcpy(out, b64_pairs[in[0] << 4 | last >> 4], 2);
        out[2] = len == 2 ? B64_ALPHABET[(last & 15) << 2] : '=';
        out[3] = '=';
    }
}

/* The number of bytes written (at most len / 4 * 3), or -1 for what is not base64. */
static inline ssize_t b64_decode(uint8_t *out, const uint8_t *in, size_t len) {
    if (len % 4) return -1;
    uint8_t *begin = out;
    size_t padding = len ? (in[len - 1] == '=') + (in[len - 1] == '=' && in[len - 2] == '=') : 0;
    size_t whole = padding ? len - 4 : len;
    uint32_t seen = 0;
    for (const uint8_t *end = in + whole; in < end; in += 4, out += 3) {
        uint32_t bits = b64_values[0][in[0]] | b64_values[1][in[1]] | b64_values[2][in[2]] |
                        b64_values[3][in[3]];
        seen |= bits;
        out[0] = (uint8_t)(bits >> 16), out[1] = (uint8_t)(bits >> 8), out[2] = (uint8_t)bits;
    }
    if (padding) {
        uint32_t bits = b64_values[0][in[0]] | b64_values[1][in[1]];
        if (padding == 1) bits |= b64_values[2][in[2]];
        seen |= bits;
        *out++ = (uint8_t)(bits >> 16);
        if (padding == 1) *out++ = (uint8_t)(bits >> 8);
    }
    return seen >> 31 ? -1 : out - begin;
}

/* -- the opening handshake -------------------------------------------------------------------- */

static inline void sha1(uint8_t digest[20], const uint8_t *data, size_t len) {
    uint32_t h[5] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};
    size_t padded = (len + 8) / 64 * 64 + 64;
    uint8_t *text = calloc(1, padded);
    if (!text) abort();
    memcpy(text, data, len);
    text[len] = 0x80;
    for (int i = 0; i < 8; i++) text[padded - 1 - i] = (uint8_t)((uint64_t)len * 8 >> (8 * i));
    for (size_t at = 0; at < padded; at += 64) {
        uint32_t w[80];
        for (int i = 0; i < 16; i++) {
            const uint8_t *p = text + at + 4 * i;
            w[i] = (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
        }
        for (int i = 16; i < 80; i++) {
            uint32_t x = w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16];
            w[i] = x << 1 | x >> 31;
        }
        uint32_t a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];
        for (int i = 0; i < 80; i++) {
            uint32_t f, k;
            if (i < 20) f = (b & c) | (~b & d), k = 0x5a827999;
            else if (i < 40) f = b ^ c ^ d, k = 0x6ed9eba1;
            else if (i < 60) f = (b & c) | (b & d) | (c & d), k = 0x8f1bbcdc;
            else f = b ^ c ^ d, k = 0xca62c1d6;
            uint32_t next = (a << 5 | a >> 27) + f + e + k + w[i];
            e = d, d = c, c = b << 30 | b >> 2, b = a, a = next;
        }
        h[0] += a, h[1] += b, h[2] += c, h[3] += d, h[4] += e;
    }
    free(text);
    for (int i = 0; i < 20; i++) digest[i] = (uint8_t)(h[i / 4] >> (24 - 8 * (i % 4)));
}

/* The key is constant, so that the answer is known: the pair is the example of RFC 6455, 1.3. */
#define WS_KEY "dGhlIHNhbXBsZSBub25jZQ=="
#define WS_ACCEPT "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

/* Length of a head up to and with its empty line, or 0 while it is incomplete. */
static inline size_t http_head(const uint8_t *data, size_t len) {
    const uint8_t *end = memmem(data, len, "\r\n\r\n", 4);
    return end ? (size_t)(end - data) + 4 : 0;
}

/* The value of a header without surrounding spaces, or NULL; `len` receives its length. */
static inline const char *http_header(const uint8_t *head, size_t head_len, const char *name,
                                      size_t *len) {
    const char *line = (const char *)head, *end = line + head_len;
    size_t name_len = strlen(name);
    while ((line = memchr(line, '\n', (size_t)(end - line))) && ++line < end) {
        if ((size_t)(end - line) <= name_len || line[name_len] != ':') continue;
        if (strncasecmp(line, name, name_len)) continue;
        const char *value = line + name_len + 1, *stop = memchr(value, '\r', (size_t)(end - value));
        if (!stop) return NULL;
        while (value < stop && *value == ' ') value++;
        while (stop > value && stop[-1] == ' ') stop--;
        *len = (size_t)(stop - value);
        return value;
    }
    return NULL;
}

static inline void ws_request(struct bytes *out, const char *path, int port) {
    char text[512];
    int len = snprintf(text, sizeof text,
                       "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\n"
                       "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                       "Sec-WebSocket-Key: " WS_KEY "\r\n\r\n",
                       path, port);
    bytes_add(out, text, (size_t)len);
}

/* Answers a request head; false if it asks for no WebSocket. */
static inline bool ws_answer(struct bytes *out, const uint8_t *head, size_t head_len) {
    size_t key_len;
    const char *key = http_header(head, head_len, "Sec-WebSocket-Key", &key_len);
    if (!key || key_len != 24) return false;
    uint8_t text[24 + 36], digest[20];
    memcpy(text, key, 24);
    memcpy(text + 24, "258EAFA5-E914-47DA-95CA-C5AB0DC85B11", 36);
    sha1(digest, text, sizeof text);
    char accept[29] = {0}, answer[256];
    b64_encode(accept, digest, 20);
    int len = snprintf(answer, sizeof answer,
                       "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                       "Connection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n",
                       accept);
    bytes_add(out, answer, (size_t)len);
    return true;
}

static inline bool ws_accepted(const uint8_t *head, size_t head_len) {
    size_t len;
    const char *accept = http_header(head, head_len, "Sec-WebSocket-Accept", &len);
    return head_len > 12 && !memcmp(head, "HTTP/1.1 101", 12) && accept &&
           len == strlen(WS_ACCEPT) && !memcmp(accept, WS_ACCEPT, len);
}

/* -- frames ----------------------------------------------------------------------------------- */

enum { WS_CONTINUATION = 0, WS_TEXT = 1, WS_BINARY = 2, WS_CLOSE = 8, WS_PING = 9, WS_PONG = 10 };
enum { WS_HEADER_MAX = 14 };

struct frame {
    int opcode;
    bool fin;
    uint8_t *payload;
    size_t len;
};

static inline void ws_mask(uint8_t *data, size_t len, const uint8_t key[4]) {
    uint64_t wide;
    memcpy(&wide, key, 4);
    memcpy((uint8_t *)&wide + 4, key, 4);
    size_t i = 0;
    for (; i + 8 <= len; i += 8) {
        uint64_t word;
        memcpy(&word, data + i, 8);
        word ^= wide;
        memcpy(data + i, &word, 8);
    }
    for (; i < len; i++) data[i] ^= key[i & 3];
}

/* Reads the first frame and takes its mask off in place. The number of bytes it occupies, 0 while it
   is incomplete, -1 if it breaks the RFC for this direction. */
static inline ssize_t ws_frame(uint8_t *data, size_t len, bool from_client, struct frame *frame) {
    if (len < 2) return 0;
    bool masked = data[1] & 0x80;
    if (data[0] & 0x70 || masked != from_client) return -1;
    size_t at = 2, size = data[1] & 0x7f;
    if (size == 126) {
        if (len < 4) return 0;
        size = (size_t)data[2] << 8 | data[3], at = 4;
    } else if (size == 127) {
        if (len < 10) return 0;
        size = 0, at = 10;
        for (int i = 2; i < 10; i++) size = size << 8 | data[i];
        if (size > 1 << 26) return -1;
    }
    const uint8_t *key = data + at;
    if (masked) at += 4;
    if (len < at + size) return 0;
    *frame = (struct frame){data[0] & 15, data[0] & 0x80, data + at, size};
    if (masked) ws_mask(frame->payload, size, key);
    return (ssize_t)(at + size);
}

static inline uint32_t ws_random(void) {
    static uint64_t state = 0x9e3779b97f4a7c15u;
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return (uint32_t)(state >> 32);
}

/* A frame of `len` bytes in `out`: the caller fills in the payload that is returned, and then seals
   it, which masks what a client sends. */
static inline uint8_t *ws_begin(struct bytes *out, int opcode, size_t len, bool from_client) {
    uint8_t *p = bytes_room(out, WS_HEADER_MAX + len), *begin = p, flag = from_client ? 0x80 : 0;
    *p++ = (uint8_t)(0x80 | opcode);
    if (len < 126) {
        *p++ = (uint8_t)(flag | len);
    } else if (len < 65536) {
        *p++ = flag | 126, *p++ = (uint8_t)(len >> 8), *p++ = (uint8_t)len;
    } else {
        *p++ = flag | 127;
        for (int i = 7; i >= 0; i--) *p++ = (uint8_t)((uint64_t)len >> (8 * i));
    }
    if (from_client) {
        uint32_t key = ws_random();
        memcpy(p, &key, 4);
        p += 4;
    }
    out->len += (size_t)(p - begin) + len;
    return p;
}

static inline void ws_seal(uint8_t *payload, size_t len, bool from_client) {
    if (from_client) ws_mask(payload, len, payload - 4);
}

static inline void ws_send(struct bytes *out, int opcode, const void *data, size_t len,
                           bool from_client) {
    uint8_t *payload = ws_begin(out, opcode, len, from_client);
    if (len) memcpy(payload, data, len);
    ws_seal(payload, len, from_client);
}

static inline void ws_text(struct bytes *out, const char *text, bool from_client) {
    ws_send(out, WS_TEXT, text, strlen(text), from_client);
}

/* -- JSON ------------------------------------------------------------------------------------- */

struct slice {
    const char *at;
    size_t len;
};

static inline bool slice_is(struct slice s, const char *text) {
    return s.at && s.len == strlen(text) && !memcmp(s.at, text, s.len);
}

/* Behind the closing quote of the string whose first character is at `p`, or NULL. */
static inline const char *json_string_end(const char *p, const char *end) {
    for (const char *quote = p; (quote = memchr(quote, '"', (size_t)(end - quote))); quote++) {
        const char *slash = quote;
        while (slash > p && slash[-1] == '\\') slash--;
        if ((quote - slash) % 2 == 0) return quote + 1;
    }
    return NULL;
}

/* Behind the value at `p`, or NULL. */
static inline const char *json_value_end(const char *p, const char *end) {
    int depth = 0;
    while (p < end) {
        char c = *p++;
        if (c == '"') {
            if (!(p = json_string_end(p, end))) return NULL;
            if (depth == 0) return p;
        } else if (c == '{' || c == '[') {
            depth++;
        } else if (c == '}' || c == ']') {
            if (--depth == 0) return p;
            if (depth < 0) return p - 1;
        } else if (c == ',' && depth == 0) {
            return p - 1;
        }
    }
    return NULL;
}

static inline const char *json_space(const char *p, const char *end) {
    while (p < end && isspace((unsigned char)*p)) p++;
    return p;
}

/* A member of the object in `json`: a string without its quotes and not unescaped, any other value
   as it stands; `at` is NULL if there is none. */
static inline struct slice json_member(struct slice json, const char *name) {
    const char *end = json.at + json.len, *p = json_space(json.at, end);
    size_t name_len = strlen(name);
    if (p == end || *p++ != '{') return (struct slice){0};
    while ((p = json_space(p, end)) < end && *p == '"') {
        const char *key = ++p;
        if (!(p = json_string_end(p, end))) break;
        bool found = (size_t)(p - key) == name_len + 1 && !memcmp(key, name, name_len);
        p = json_space(p, end);
        if (p == end || *p++ != ':') break;
        const char *value = json_space(p, end);
        if (!(p = json_value_end(value, end))) break;
        if (found && *value == '"') return (struct slice){value + 1, (size_t)(p - value) - 2};
        if (found) return (struct slice){value, (size_t)(p - value)};
        p = json_space(p, end);
        if (p < end && *p == ',') p++;
    }
    return (struct slice){0};
}

#endif
