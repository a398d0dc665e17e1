/* loadgen: both ends of a relay under load, in one process: its clients and its upstream.

   It knows the Deepgram client's side and the Realtime server's side, each as little as any correct
   relay needs, and measures what lies between: when the same process sees a frame leave and arrive,
   one clock times both. It starts nothing and knows no contestant.

       loadgen --mock-fd FD --port PORT --pid PID [--sessions N] [--seconds S] ...

   FD is a listening socket, which is the upstream; PORT is where the relay listens, PID the relay.
   The result is one JSON object on standard output. Whatever is wrong (a byte of audio that differs,
   a lost connection, an unexpected message) ends it with a line on standard error and status 1.

   Audio is a stream of frames: a header with direction, session and number, then pseudo-random bytes
   that depend on them. A relay may cut the stream anew; each byte of it must come, once, in order.
*/
#define _GNU_SOURCE
#include "usage.h"
#include "ws.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#ifdef BENCH_TLS
#include <openssl/ssl.h>
static SSL_CTX *tls; /* of the upstream; NULL: plain ws */
#endif

enum { UP, DOWN };                                /* client to upstream, upstream to client */
static const ns_t PERIOD[2] = {20 * MS, 100 * MS};
enum { UPSTREAM_UP = 960, UPSTREAM_DOWN = 4800 }; /* 20 and 100 ms of 16 bits at 24 kHz */
enum { RING = 2048 };                             /* frames that a relay may be behind */
enum { PATTERN = 1 << 16, HEADER = 16, FRAME_MAX = 16384 };
enum { RESPONSE_DELTAS = 40, DELTAS_PER_WORD = 5 };
enum { SCRATCH = 4 << 20, BURST = 32, EVENTS = 64 };

static struct {
    int mock_fd, port, pid, sessions, in_flight, rate;
    double seconds, warm_s, capacity; /* capacity: growth factor, 0 = one window at `sessions` */
    bool splice, spin;
    const char *tls_pem; /* certificate and key of the upstream */
} option = {.mock_fd = -1, .sessions = 80, .in_flight = 8, .rate = 24000, .seconds = 5, .warm_s = 1};

/* -- what is under way ------------------------------------------------------------------------ */

enum conn_state { CONNECTING, UPGRADING, OPEN, CLOSING, CLOSED };

struct session;

struct conn {
    int fd;
    bool is_client; /* else the relay's connection to the upstream */
    bool wants_write;
    enum conn_state state;
    struct session *session; /* of an upstream connection: known from session.update on */
    struct bytes in, out, message;
    int message_opcode;
#ifdef BENCH_TLS
    SSL *tls;
#endif
};

struct flow {
    ns_t due;
    uint64_t sent, done;     /* frames */
    uint64_t received;       /* bytes */
    size_t sent_size;        /* bytes of a frame as it is sent */
    size_t received_size;    /* and as it should arrive */
    ns_t *sent_at;
};

struct session {
    uint32_t id;
    struct conn *client, *upstream;
    struct flow flow[2];
    ns_t connect_at, settings_at;
    bool applied;
};

static struct session **sessions;
static uint32_t session_count;
static int live_conns, applied_count, pending_count;
static bool traffic;
static ns_t spun; /* CPU time of rounds that found nothing to do */
static int epoll_fd;
static uint8_t pattern[2 * PATTERN], scratch[SCRATCH];

struct samples {
    uint32_t *at; /* ns, at most 4.29 s */
    size_t len, room;
};

static struct {
    struct samples latency[2], lag, welcome, apply;
    uint64_t frames[2], messages[2];
} window;

/* -- the end ---------------------------------------------------------------------------------- */

static void capacity_reached(const char *why);

/* The relay gave a session up: a failure, or the limit that was looked for. */
static void lost(const struct session *s, const char *why) {
    char text[256];
    snprintf(text, sizeof text, "session %u: %s", s ? s->id : 0, why);
    if (option.capacity > 0) capacity_reached(text);
    die("%s", text);
}

/* -- samples ---------------------------------------------------------------------------------- */

static void sample(struct samples *s, ns_t value) {
    if (s->len == s->room) {
        s->room = s->room ? 2 * s->room : 1 << 16;
        s->at = realloc(s->at, s->room * sizeof *s->at);
        if (!s->at) abort();
    }
    s->at[s->len++] = value < UINT32_MAX ? (uint32_t)value : UINT32_MAX;
}

static int by_value(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* In ms; sorts. Without samples: -1. */
static double quantile(struct samples *s, double q) {
    if (!s->len) return -1;
    qsort(s->at, s->len, sizeof *s->at, by_value);
    size_t at = (size_t)(q * (double)s->len);
    return (double)s->at[at < s->len ? at : s->len - 1] / 1e6;
}

/* -- audio ------------------------------------------------------------------------------------ */

static void frame_header(uint8_t header[HEADER], int way, uint32_t id, uint64_t number) {
    memcpy(header, way == UP ? "UP->" : "->DN", 4);
    memcpy(header + 4, &id, 4);
    memcpy(header + 8, &number, 8);
}

static const uint8_t *frame_body(uint32_t id, uint64_t number) {
    return pattern + (id * 7919u + number * 104729u) % PATTERN;
}

static void frame_write(uint8_t *out, size_t size, int way, uint32_t id, uint64_t number) {
    frame_header(out, way, id, number);
    memcpy(out + HEADER, frame_body(id, number), size - HEADER);
}

static void audio_check(const struct session *s, int way, const uint8_t *data, size_t len) {
    const struct flow *f = &s->flow[way];
    for (uint64_t at = f->received; len;) {
        uint64_t number = at / f->sent_size;
        size_t offset = at % f->sent_size, take = f->sent_size - offset;
        if (take > len) take = len;
        if (number >= f->sent) die("session %u: audio that was never sent", s->id);
        uint8_t header[HEADER];
        frame_header(header, way, s->id, number);
        size_t head = offset >= HEADER ? 0 : HEADER - offset < take ? HEADER - offset : take;
        const uint8_t *body = frame_body(s->id, number) + (offset + head - HEADER);
        if ((head && memcmp(data, header + offset, head)) ||
            (take > head && memcmp(data + head, body, take - head)))
            die("session %u: wrong bytes in %s frame %llu", s->id, way == UP ? "client" : "upstream",
                (unsigned long long)number);
        at += take, data += take, len -= take;
    }
}

static void audio_arrived(struct session *s, int way, const uint8_t *data, size_t len, ns_t now) {
    struct flow *f = &s->flow[way];
    bool exact = f->sent_size == f->received_size;
    if (exact) audio_check(s, way, data, len);
    f->received += len;
    /* A resampler keeps a little back; its bytes cannot be foretold, their number can. */
    size_t slack = exact ? 0 : f->received_size / 8;
    if (f->received > f->sent * f->received_size + slack)
        die("session %u: more audio than was sent", s->id);
    window.messages[way]++;
    for (; f->done < f->sent && f->received + slack >= (f->done + 1) * f->received_size; f->done++) {
        sample(&window.latency[way], now - f->sent_at[f->done % RING]);
        window.frames[way]++;
    }
}

/* -- sockets ---------------------------------------------------------------------------------- */

static void conn_watch(struct conn *c, int operation) {
    uint32_t events = EPOLLIN | (c->wants_write ? EPOLLOUT : 0u);
    struct epoll_event event = {.events = events, .data.ptr = c};
    if (epoll_ctl(epoll_fd, operation, c->fd, &event)) die("epoll_ctl: %s", strerror(errno));
}

#ifdef BENCH_TLS
static ssize_t tls_result(const struct conn *c, int result) {
    if (result > 0) return result;
    int error = SSL_get_error(c->tls, result);
    errno = error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE ? EAGAIN : EPROTO;
    return error == SSL_ERROR_ZERO_RETURN ? 0 : -1;
}

static void tls_prepare(const char *pem) {
    tls = SSL_CTX_new(TLS_server_method());
    if (SSL_CTX_use_certificate_chain_file(tls, pem) != 1 ||
        SSL_CTX_use_PrivateKey_file(tls, pem, SSL_FILETYPE_PEM) != 1)
        die("%s: no certificate with its key", pem);
    SSL_CTX_set_mode(tls, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
}

static ssize_t conn_send(struct conn *c) {
    if (!c->tls) return send(c->fd, c->out.data, c->out.len, MSG_NOSIGNAL | MSG_DONTWAIT);
    return tls_result(c, SSL_write(c->tls, c->out.data, (int)c->out.len));
}

static ssize_t conn_recv(struct conn *c, uint8_t *data, size_t room) {
    if (!c->tls) return recv(c->fd, data, room, MSG_DONTWAIT);
    return tls_result(c, SSL_read(c->tls, data, (int)room));
}
#else
static void tls_prepare(const char *pem) { die("built without OpenSSL, cannot serve %s", pem); }

static ssize_t conn_send(struct conn *c) {
    return send(c->fd, c->out.data, c->out.len, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static ssize_t conn_recv(struct conn *c, uint8_t *data, size_t room) {
    return recv(c->fd, data, room, MSG_DONTWAIT);
}
#endif

static struct conn *conn_new(int fd, bool is_client, enum conn_state state) {
    struct conn *c = calloc(1, sizeof *c);
    if (!c) abort();
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    *c = (struct conn){.fd = fd, .is_client = is_client, .state = state};
    c->wants_write = state == CONNECTING;
#ifdef BENCH_TLS
    if (tls && !is_client) {
        c->tls = SSL_new(tls);
        if (!c->tls || SSL_set_fd(c->tls, fd) != 1) abort();
        SSL_set_accept_state(c->tls);
    }
#endif
    conn_watch(c, EPOLL_CTL_ADD);
    live_conns++;
    return c;
}

static void conn_close(struct conn *c) {
    if (c->state == CLOSED) return;
    c->state = CLOSED;
#ifdef BENCH_TLS
    SSL_free(c->tls);
#endif
    close(c->fd);
    bytes_free(&c->in), bytes_free(&c->out), bytes_free(&c->message);
    live_conns--;
}

static void conn_flush(struct conn *c) {
    if (c->state == CLOSED || c->state == CONNECTING) return;
    if (c->out.len) {
        ssize_t n = conn_send(c);
        if (n < 0 && errno != EAGAIN) {
            if (c->state == OPEN && c->session) lost(c->session, "its connection broke");
            conn_close(c);
            return;
        }
        if (n > 0) bytes_drop(&c->out, (size_t)n);
    }
    if (c->wants_write != (c->out.len > 0)) {
        c->wants_write = c->out.len > 0;
        conn_watch(c, EPOLL_CTL_MOD);
    }
}

/* -- the upstream ----------------------------------------------------------------------------- */

static void upstream_event(struct session *s, const char *type, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static void upstream_event(struct session *s, const char *type, const char *format, ...) {
    static uint64_t serial;
    char text[4096];
    int len = snprintf(text, sizeof text, "{\"type\":\"%s\",\"event_id\":\"event_%llu\",", type,
                       (unsigned long long)++serial);
    va_list arguments;
    va_start(arguments, format);
    len += vsnprintf(text + len, sizeof text - (size_t)len, format, arguments);
    va_end(arguments);
    text[len++] = '}';
    ws_send(&s->upstream->out, WS_TEXT, text, (size_t)len, false);
}

static const char SESSION[] =
    "\"session\":{\"type\":\"realtime\",\"object\":\"realtime.session\",\"id\":\"sess_bench\","
    "\"model\":\"gpt-realtime\",\"output_modalities\":[\"audio\"],\"instructions\":\"\",\"tools\":[],"
    "\"tool_choice\":\"auto\",\"max_output_tokens\":\"inf\",\"tracing\":null,\"truncation\":\"auto\","
    "\"prompt\":null,\"expires_at\":%lld,\"audio\":{\"input\":{\"format\":{\"type\":\"audio/pcm\","
    "\"rate\":24000},\"transcription\":null,\"noise_reduction\":null,\"turn_detection\":{\"type\":"
    "\"server_vad\",\"threshold\":0.5,\"prefix_padding_ms\":300,\"silence_duration_ms\":500,"
    "\"idle_timeout_ms\":null,\"create_response\":true,\"interrupt_response\":true}},\"output\":{"
    "\"format\":{\"type\":\"audio/pcm\",\"rate\":24000},\"voice\":\"marin\",\"speed\":1.0}},"
    "\"include\":null}";

static void upstream_session(struct conn *c, const char *type) {
    struct session any = {.upstream = c};
    upstream_event(&any, type, SESSION, (long long)time(NULL) + 3600);
}

/* In our ids the session's number and the response's. */
#define IDS(id, n) (id), (unsigned long long)(n)
#define RESPONSE "resp_%06u_%llu"
#define ITEM "item_%06u_%llu"
#define WORDS "The quick brown fox jumps over the lazy dog."

static void response_begins(struct session *s, uint64_t n) {
    uint32_t id = s->id;
    upstream_event(s, "response.created",
                   "\"response\":{\"object\":\"realtime.response\",\"id\":\"" RESPONSE "\",\"status\":"
                   "\"in_progress\",\"status_details\":null,\"output\":[],\"conversation_id\":"
                   "\"conv_%06u\",\"output_modalities\":[\"audio\"],\"max_output_tokens\":\"inf\","
                   "\"usage\":null,\"metadata\":null}",
                   IDS(id, n), id);
    upstream_event(s, "rate_limits.updated",
                   "\"rate_limits\":[{\"name\":\"tokens\",\"limit\":400000,\"remaining\":399000,"
                   "\"reset_seconds\":0.15}]");
    upstream_event(s, "response.output_item.added",
                   "\"response_id\":\"" RESPONSE "\",\"output_index\":0,\"item\":{\"id\":\"" ITEM
                   "\",\"object\":\"realtime.item\",\"type\":\"message\",\"status\":\"in_progress\","
                   "\"role\":\"assistant\",\"content\":[]}",
                   IDS(id, n), IDS(id, n));
    upstream_event(s, "conversation.item.added",
                   "\"previous_item_id\":null,\"item\":{\"id\":\"" ITEM
                   "\",\"object\":\"realtime.item\",\"type\":\"message\",\"status\":\"in_progress\","
                   "\"role\":\"assistant\",\"content\":[]}",
                   IDS(id, n));
    upstream_event(s, "response.content_part.added",
                   "\"response_id\":\"" RESPONSE "\",\"item_id\":\"" ITEM
                   "\",\"output_index\":0,\"content_index\":0,\"part\":{\"type\":\"audio\","
                   "\"transcript\":\"\"}",
                   IDS(id, n), IDS(id, n));
}

#define IN_CONTENT                                                                                  \
    "\"response_id\":\"" RESPONSE "\",\"item_id\":\"" ITEM "\",\"output_index\":0,\"content_index\":0"
#define SPOKEN_ITEM                                                                                 \
    "{\"id\":\"" ITEM "\",\"object\":\"realtime.item\",\"type\":\"message\",\"status\":\"completed\"," \
    "\"role\":\"assistant\",\"content\":[{\"type\":\"output_audio\",\"transcript\":\"" WORDS "\"}]}"

static void response_ends(struct session *s, uint64_t n) {
    uint32_t id = s->id;
    upstream_event(s, "response.output_audio.done", IN_CONTENT, IDS(id, n), IDS(id, n));
    upstream_event(s, "response.output_audio_transcript.done",
                   IN_CONTENT ",\"transcript\":\"" WORDS "\"", IDS(id, n), IDS(id, n));
    upstream_event(s, "response.content_part.done",
                   IN_CONTENT ",\"part\":{\"type\":\"audio\",\"transcript\":\"" WORDS "\"}",
                   IDS(id, n), IDS(id, n));
    upstream_event(s, "conversation.item.done", "\"previous_item_id\":null,\"item\":" SPOKEN_ITEM,
                   IDS(id, n));
    upstream_event(s, "response.output_item.done",
                   "\"response_id\":\"" RESPONSE "\",\"output_index\":0,\"item\":" SPOKEN_ITEM,
                   IDS(id, n), IDS(id, n));
    upstream_event(s, "response.done",
                   "\"response\":{\"object\":\"realtime.response\",\"id\":\"" RESPONSE "\",\"status\":"
                   "\"completed\",\"status_details\":null,\"output\":[" SPOKEN_ITEM
                   "],\"conversation_id\":\"conv_%06u\",\"output_modalities\":[\"audio\"],"
                   "\"max_output_tokens\":\"inf\",\"usage\":{\"total_tokens\":200,\"input_tokens\":100,"
                   "\"output_tokens\":100},\"metadata\":null}",
                   IDS(id, n), IDS(id, n), id);
}

static void response_delta(struct session *s, uint64_t n, const uint8_t *audio, size_t size) {
    char head[256];
    int head_len = snprintf(head, sizeof head,
                            "{\"type\":\"response.output_audio.delta\",\"event_id\":\"event_d%llu\","
                            IN_CONTENT ",\"delta\":\"",
                            (unsigned long long)s->flow[DOWN].sent, IDS(s->id, n), IDS(s->id, n));
    size_t text_len = b64_length(size), len = (size_t)head_len + text_len + 2;
    uint8_t *p = ws_begin(&s->upstream->out, WS_TEXT, len, false);
    memcpy(p, head, (size_t)head_len);
    b64_encode((char *)p + head_len, audio, size);
    memcpy(p + head_len + text_len, "\"}", 2);
}

static void upstream_configured(struct conn *c, struct slice update) {
    const char *mark = memmem(update.at, update.len, "bench-session-", 14);
    uint32_t id = mark ? (uint32_t)strtoul(mark + 14, NULL, 10) : UINT32_MAX;
    if (id >= session_count || sessions[id]->upstream || c->session)
        die("session.update without the prompt of its Settings: %.*s", (int)update.len, update.at);
    c->session = sessions[id];
    c->session->upstream = c;
    upstream_session(c, "session.updated");
}

static void upstream_text(struct conn *c, struct slice text, ns_t now) {
    struct slice type = json_member(text, "type");
    if (slice_is(type, "input_audio_buffer.append") && !option.splice) {
        static uint8_t audio[SCRATCH];
        struct slice coded = json_member(text, "audio");
        ssize_t len = coded.at ? b64_decode(audio, (const uint8_t *)coded.at, coded.len) : -1;
        if (len < 0) die("an append event without base64: %.*s", (int)text.len, text.at);
        if (!c->session) die("audio before session.update");
        audio_arrived(c->session, UP, audio, (size_t)len, now);
    } else if (slice_is(type, option.splice ? "Settings" : "session.update")) {
        upstream_configured(c, text);
    } else {
        die("the relay sent the upstream: %.*s", (int)text.len, text.at);
    }
}

/* -- the client ------------------------------------------------------------------------------- */

static void settings_send(struct session *s, ns_t now) {
    char text[1024];
    snprintf(text, sizeof text,
             "{\"type\":\"Settings\",\"audio\":{\"input\":{\"encoding\":\"linear16\",\"sample_rate\":%d},"
             "\"output\":{\"encoding\":\"linear16\",\"sample_rate\":%d,\"container\":\"none\"}},"
             "\"agent\":{\"listen\":{\"provider\":{\"type\":\"deepgram\",\"model\":\"nova-3\"}},"
             "\"think\":{\"provider\":{\"type\":\"open_ai\",\"model\":\"gpt-realtime\"},\"prompt\":"
             "\"You are a friendly voice agent. bench-session-%u.\"},\"speak\":{\"provider\":{\"type\":"
             "\"open_ai\",\"model\":\"gpt-4o-mini-tts\",\"voice\":\"marin\"}}}}",
             option.rate, option.rate, s->id);
    s->settings_at = now;
    ws_text(&s->client->out, text, true);
}

static void traffic_begin(struct session *s, ns_t now);

static void client_text(struct session *s, struct slice text, ns_t now) {
    struct slice type = json_member(text, "type");
    if (slice_is(type, option.splice ? "session.updated" : "SettingsApplied")) {
        if (s->applied || !s->upstream) die("session %u: SettingsApplied out of order", s->id);
        s->applied = true;
        applied_count++, pending_count--;
        sample(&window.apply, now - s->settings_at);
        if (traffic) traffic_begin(s, now);
    } else if (slice_is(type, "Welcome")) {
        sample(&window.welcome, now - s->connect_at);
    } else if (slice_is(type, "Error") || slice_is(type, "Warning")) {
        char why[512];
        snprintf(why, sizeof why, "%.*s", (int)text.len, text.at);
        lost(s, why);
    } else if (option.splice && slice_is(type, "response.output_audio.delta")) {
        static uint8_t audio[SCRATCH];
        struct slice coded = json_member(text, "delta");
        ssize_t len = coded.at ? b64_decode(audio, (const uint8_t *)coded.at, coded.len) : -1;
        if (len < 0) die("session %u: a damaged delta", s->id);
        audio_arrived(s, DOWN, audio, (size_t)len, now);
    } else if (!option.splice) {
        static const char *const usual[] = {"AgentThinking", "AgentStartedSpeaking", "History",
                                            "ConversationText", "AgentAudioDone", "LatencyReport"};
        for (size_t i = 0; i < sizeof usual / sizeof *usual; i++)
            if (slice_is(type, usual[i])) return;
        die("the relay sent the client: %.*s", (int)text.len, text.at);
    }
}

/* -- frames ----------------------------------------------------------------------------------- */

static void conn_message(struct conn *c, int opcode, uint8_t *data, size_t len, ns_t now) {
    struct slice text = {(const char *)data, len};
    if (c->state != OPEN) return; /* it may still talk while we say goodbye */
    if (c->is_client && opcode == WS_TEXT) client_text(c->session, text, now);
    else if (!c->is_client && opcode == WS_TEXT) upstream_text(c, text, now);
    else if (c->is_client && !option.splice) audio_arrived(c->session, DOWN, data, len, now);
    else if (!c->is_client && option.splice && c->session)
        audio_arrived(c->session, UP, data, len, now);
    else die("a binary frame where none belongs");
}

static void conn_frame(struct conn *c, struct frame *f, ns_t now) {
    switch (f->opcode) {
    case WS_PING:
        ws_send(&c->out, WS_PONG, f->payload, f->len, c->is_client);
        break;
    case WS_PONG:
        break;
    case WS_CLOSE:
        if (c->state == OPEN && c->session && c->session->client->state == OPEN)
            lost(c->session, "closed by the relay");
        if (c->state == OPEN) ws_send(&c->out, WS_CLOSE, f->payload, f->len, c->is_client);
        conn_flush(c);
        conn_close(c);
        break;
    default:
        if (f->opcode != WS_CONTINUATION) c->message_opcode = f->opcode;
        if (f->fin && f->opcode != WS_CONTINUATION) {
            conn_message(c, f->opcode, f->payload, f->len, now);
            break;
        }
        bytes_add(&c->message, f->payload, f->len);
        if (!f->fin) break;
        conn_message(c, c->message_opcode, c->message.data, c->message.len, now);
        c->message.len = 0;
    }
}

/* Reads one handshake or frame; the number of bytes it occupied, 0 if it is incomplete. */
static size_t conn_parse(struct conn *c, uint8_t *data, size_t len, ns_t now) {
    if (c->state == UPGRADING) {
        size_t head = http_head(data, len);
        if (!head) return 0;
        c->state = OPEN;
        if (c->is_client) {
            if (!ws_accepted(data, head)) die("refused: %.*s", (int)head, data);
            settings_send(c->session, now);
        } else {
            if (!ws_answer(&c->out, data, head)) die("not a WebSocket request: %.*s", (int)head, data);
            if (!option.splice) upstream_session(c, "session.created");
        }
        return head;
    }
    struct frame frame;
    ssize_t used = ws_frame(data, len, !c->is_client, &frame);
    if (used < 0) die("a malformed frame %s", c->is_client ? "to the client" : "to the upstream");
    if (used) conn_frame(c, &frame, now);
    return (size_t)used;
}

static void conn_ended(struct conn *c, const char *how) {
    struct session *s = c->session;
    bool leaving = c->state == CLOSING || (s && s->client->state != OPEN);
    if (c->is_client || s) {
        if (!leaving) lost(s, how);
    } else if (c->state == OPEN) {
        lost(NULL, "an upstream connection ended before session.update");
    }
    conn_close(c);
}

/* Whether more may be waiting: TLS hands out a record at a time. */
static bool conn_read(struct conn *c) {
    size_t have = c->in.len;
    if (have) memcpy(scratch, c->in.data, have);
    if (have == SCRATCH) die("a message of more than %d bytes", SCRATCH);
    ssize_t n = conn_recv(c, scratch + have, SCRATCH - have);
    if (n < 0 && errno == EAGAIN) return false;
    if (n <= 0) {
        conn_ended(c, n ? strerror(errno) : "its connection ended");
        return false;
    }
    ns_t now = now_ns();
    size_t len = have + (size_t)n, at = 0, used;
    while (c->state != CLOSED && at < len && (used = conn_parse(c, scratch + at, len - at, now)))
        at += used;
    if (c->state == CLOSED) return false;
    c->in.len = 0;
    bytes_add(&c->in, scratch + at, len - at);
    return true;
}

static void conn_readable(struct conn *c) {
    bool more = conn_read(c);
#ifdef BENCH_TLS
    while (more && c->tls) more = conn_read(c);
#else
    (void)more;
#endif
    if (c->state != CLOSED && c->out.len) conn_flush(c);
}

static void conn_connected(struct conn *c) {
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) {
        lost(c->session, strerror(error));
        return;
    }
    c->state = UPGRADING;
    ws_request(&c->out, "/v1/agent/converse", option.port);
    conn_flush(c);
}

static void mock_accept(void) {
    for (;;) {
        int fd = accept4(option.mock_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) conn_new(fd, false, UPGRADING);
        else if (errno == EAGAIN) return;
        else die("accept: %s", strerror(errno));
    }
}

/* -- sessions --------------------------------------------------------------------------------- */

static void flow_prepare(struct flow *f, size_t sent_size, size_t received_size) {
    f->sent_size = sent_size, f->received_size = received_size;
    f->sent_at = calloc(RING, sizeof *f->sent_at);
    if (!f->sent_at || sent_size > FRAME_MAX) abort();
}

static void session_open(void) {
    struct session *s = calloc(1, sizeof *s);
    sessions = realloc(sessions, (session_count + 1) * sizeof *sessions);
    if (!s || !sessions) abort();
    s->id = session_count;
    sessions[session_count++] = s;
    size_t client_up = (size_t)option.rate / 25, client_down = (size_t)option.rate / 5;
    flow_prepare(&s->flow[UP], client_up, option.splice ? client_up : UPSTREAM_UP);
    flow_prepare(&s->flow[DOWN], UPSTREAM_DOWN, client_down);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)option.port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    s->connect_at = now_ns();
    if (fd < 0 || (connect(fd, (struct sockaddr *)&to, sizeof to) && errno != EINPROGRESS))
        die("connect: %s", strerror(errno));
    s->client = conn_new(fd, true, CONNECTING);
    s->client->session = s;
    pending_count++;
}

static void session_close(struct session *s) {
    if (s->client->state != OPEN) return;
    ws_send(&s->client->out, WS_CLOSE, "\x03\xe8", 2, true);
    s->client->state = CLOSING;
    conn_flush(s->client);
}

/* -- traffic ---------------------------------------------------------------------------------- */

struct due {
    ns_t at;
    struct session *session;
    int way;
};
static struct due *queue; /* a heap, the next one first */
static size_t queue_len, queue_room;

static void queue_sink(size_t i) {
    for (size_t child; (child = 2 * i + 1) < queue_len; i = child) {
        if (child + 1 < queue_len && queue[child + 1].at < queue[child].at) child++;
        if (queue[i].at <= queue[child].at) return;
        struct due swap = queue[i];
        queue[i] = queue[child], queue[child] = swap;
    }
}

static void queue_add(struct due due) {
    if (queue_len == queue_room) {
        queue_room = queue_room ? 2 * queue_room : 256;
        queue = realloc(queue, queue_room * sizeof *queue);
        if (!queue) abort();
    }
    size_t i = queue_len++;
    for (; i && queue[(i - 1) / 2].at > due.at; i = (i - 1) / 2) queue[i] = queue[(i - 1) / 2];
    queue[i] = due;
}

/* Spread over the period by the golden ratio: evenly, whatever the number of sessions. */
static ns_t phase(uint32_t id, ns_t period) {
    return (ns_t)((id * 2654435769u) / 4294967296.0 * (double)period);
}

static void traffic_begin(struct session *s, ns_t now) {
    for (int way = UP; way <= DOWN; way++)
        queue_add((struct due){now + phase(s->id, PERIOD[way]), s, way});
}

static void traffic_start(void) {
    traffic = true;
    ns_t now = now_ns();
    for (uint32_t id = 0; id < session_count; id++)
        if (sessions[id]->applied && sessions[id]->client->state == OPEN)
            traffic_begin(sessions[id], now);
}

static void traffic_stop(void) { traffic = false, queue_len = 0; }

static void frame_send(struct session *s, int way) {
    struct flow *f = &s->flow[way];
    struct conn *c = way == UP ? s->client : s->upstream;
    uint64_t number = f->sent;
    if (f->sent - f->done == RING) {
        lost(s, "the relay is too far behind");
        return;
    }
    if (way == UP) {
        uint8_t *p = ws_begin(&c->out, WS_BINARY, f->sent_size, true);
        frame_write(p, f->sent_size, way, s->id, number);
        ws_seal(p, f->sent_size, true);
    } else {
        uint8_t audio[FRAME_MAX];
        frame_write(audio, f->sent_size, way, s->id, number);
        /* Callers do not take turns together: the first response is cut short by another part in each. */
        uint64_t spoken = number + phase(s->id, RESPONSE_DELTAS);
        uint64_t response = spoken / RESPONSE_DELTAS, place = spoken % RESPONSE_DELTAS;
        if (number == 0 || place == 0) response_begins(s, response);
        if (number % DELTAS_PER_WORD == 0)
            upstream_event(s, "response.output_audio_transcript.delta", IN_CONTENT ",\"delta\":\"fox \"",
                           IDS(s->id, response), IDS(s->id, response));
        response_delta(s, response, audio, f->sent_size);
        if (place == RESPONSE_DELTAS - 1) response_ends(s, response);
    }
    f->sent_at[f->sent++ % RING] = now_ns();
    conn_flush(c);
}

/* Sends what is due, a burst at most; when the next is due. */
static ns_t traffic_send(ns_t now) {
    for (int i = 0; i < BURST && queue_len && queue[0].at <= now; i++) {
        struct due due = queue[0];
        sample(&window.lag, now - due.at);
        frame_send(due.session, due.way);
        if (!queue_len) break;
        queue[0].at += PERIOD[due.way];
        queue_sink(0);
        now = now_ns();
    }
    return queue_len ? queue[0].at : UINT64_MAX;
}

/* One round: send what is due, wait for the next event, but not beyond `deadline`; handle it. */
static void turn(ns_t deadline) {
    struct epoll_event events[EVENTS];
    size_t sent = window.lag.len;
    ns_t begin = option.spin ? clock_ns(CLOCK_PROCESS_CPUTIME_ID) : 0;
    ns_t next = traffic_send(now_ns()), now = now_ns();
    if (next > deadline) next = deadline;
    ns_t wait = next > now && !option.spin ? next - now : 0;
    struct timespec timeout = {(time_t)(wait / SECOND), (long)(wait % SECOND)};
    int count = epoll_pwait2(epoll_fd, events, EVENTS, &timeout, NULL);
    if (count < 0 && errno != EINTR) die("epoll_pwait2: %s", strerror(errno));
    if (option.spin && count == 0 && window.lag.len == sent)
        spun += clock_ns(CLOCK_PROCESS_CPUTIME_ID) - begin;
    for (int i = 0; i < count; i++) {
        struct conn *c = events[i].data.ptr;
        if (!c) {
            mock_accept();
            continue;
        }
        if (c->state == CONNECTING) conn_connected(c);
        else if (events[i].events & EPOLLOUT) conn_flush(c);
        if (c->state != CLOSED && events[i].events & ~(uint32_t)EPOLLOUT) conn_readable(c);
    }
}

static void run_until(ns_t deadline) {
    while (now_ns() < deadline) turn(deadline);
}

static void run_for(double seconds) { run_until(now_ns() + (ns_t)(seconds * 1e9)); }

/* -- the measurements ------------------------------------------------------------------------- */

/* Sessions up to `target` in all; false if the relay takes too long. */
static bool open_up_to(int target) {
    ns_t progress = now_ns();
    for (int before = applied_count; applied_count < target;) {
        while (pending_count < option.in_flight && applied_count + pending_count < target)
            session_open();
        turn(now_ns() + 100 * MS);
        if (applied_count != before) before = applied_count, progress = now_ns();
        else if (now_ns() - progress > 10 * SECOND) return false;
    }
    return true;
}

static void close_all(void) {
    traffic_stop();
    run_for(0.1);
    for (uint32_t id = 0; id < session_count; id++) session_close(sessions[id]);
    ns_t deadline = now_ns() + 10 * SECOND;
    while (live_conns && now_ns() < deadline) turn(now_ns() + 100 * MS);
    if (live_conns) die("%d connections left open 10 s after the clients' goodbyes", live_conns);
    applied_count = 0;
}

static void window_clear(void) {
    struct samples *all[] = {&window.latency[UP], &window.latency[DOWN], &window.lag};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) all[i]->len = 0;
    memset(window.frames, 0, sizeof window.frames);
    memset(window.messages, 0, sizeof window.messages);
}

struct step {
    int sessions;
    double seconds, expected;
    struct usage relay;
    ns_t own;
    double p50[2], p99[2], max[2], lag_p99;
    uint64_t frames[2], messages[2];
};

static ns_t own_work(void) { return clock_ns(CLOCK_PROCESS_CPUTIME_ID) - spun; }

static struct step measure(double seconds) {
    window_clear();
    struct usage before = usage_of(option.pid, false);
    ns_t own = own_work(), begin = now_ns();
    run_until(begin + (ns_t)(seconds * 1e9));
    struct usage after = usage_of(option.pid, false);
    struct step step = {.sessions = applied_count, .own = own_work() - own};
    step.seconds = (double)(now_ns() - begin) / 1e9;
    step.relay.run = after.run - before.run;
    step.relay.wait = after.wait > before.wait ? after.wait - before.wait : 0;
    step.relay.processes = after.processes, step.relay.threads = after.threads;
    for (int way = UP; way <= DOWN; way++) {
        step.expected += step.seconds * applied_count * (double)SECOND / (double)PERIOD[way];
        step.p50[way] = quantile(&window.latency[way], 0.5);
        step.p99[way] = quantile(&window.latency[way], 0.99);
        step.max[way] = quantile(&window.latency[way], 1);
        step.frames[way] = window.frames[way], step.messages[way] = window.messages[way];
    }
    step.lag_p99 = quantile(&window.lag, 0.99);
    return step;
}

static void print_step(const struct step *s) {
    double frames = (double)(s->frames[UP] + s->frames[DOWN]), wall = s->seconds * 1e9;
    printf("{\"sessions\":%d,\"seconds\":%.3f,\"frames\":%.0f,\"delivered\":%.4f,", s->sessions,
           s->seconds, frames, s->expected ? frames / s->expected : 0);
    printf("\"us_per_frame\":%.3f,\"wait_us_per_frame\":%.3f,", (double)s->relay.run / 1e3 / frames,
           (double)s->relay.wait / 1e3 / frames);
    printf("\"relay_busy\":%.4f,\"generator_busy\":%.4f,\"generator_us_per_frame\":%.3f,",
           (double)s->relay.run / wall, (double)s->own / wall, (double)s->own / 1e3 / frames);
    printf("\"generator_lag_p99_ms\":%.3f,\"processes\":%d,\"threads\":%d", s->lag_p99,
           s->relay.processes, s->relay.threads);
    for (int way = UP; way <= DOWN; way++) {
        const char *name = way == UP ? "up" : "down";
        printf(",\"%s\":{\"frames\":%llu,\"messages\":%llu,\"p50_ms\":%.3f,\"p99_ms\":%.3f,"
               "\"max_ms\":%.3f}",
               name, (unsigned long long)s->frames[way], (unsigned long long)s->messages[way],
               s->p50[way], s->p99[way], s->max[way]);
    }
    printf("}");
}

/* A few sessions first: what is imported or allocated once is nobody's session. */
static void warm_up(void) {
    if (!open_up_to(2)) die("the relay does not answer Settings");
    traffic_start();
    run_for(0.5);
    close_all();
    run_for(0.3);
    window.welcome.len = window.apply.len = 0;
}

static void load(void) {
    warm_up();
    struct usage empty = usage_of(option.pid, true);
    ns_t begin = now_ns();
    if (!open_up_to(option.sessions)) die("the relay stopped answering Settings");
    double setup_s = (double)(now_ns() - begin) / 1e9, n = option.sessions;
    struct usage open = usage_of(option.pid, false);
    run_for(0.5);
    struct usage idle = usage_of(option.pid, true);
    traffic_start();
    run_for(option.warm_s);
    struct step step = measure(option.seconds);
    struct usage active = usage_of(option.pid, true);
    close_all();
    printf("{\"rss_empty_kb\":%.0f,\"rss_idle_kb_per_session\":%.2f,"
           "\"rss_active_kb_per_session\":%.2f,",
           (double)empty.rss / 1024, ((double)idle.rss - (double)empty.rss) / 1024 / n,
           ((double)active.rss - (double)empty.rss) / 1024 / n);
    printf("\"setup_per_s\":%.1f,\"setup_cpu_ms\":%.4f,\"setup_wait_ms\":%.4f,", n / setup_s,
           (double)(open.run - empty.run) / 1e6 / n,
           open.wait > empty.wait ? (double)(open.wait - empty.wait) / 1e6 / n : 0);
    printf("\"welcome_p50_ms\":%.3f,\"applied_p50_ms\":%.3f,\"load\":",
           quantile(&window.welcome, 0.5), quantile(&window.apply, 0.5));
    print_step(&step);
    puts("}");
}

static struct step *steps;
static size_t step_count;

static bool good(const struct step *s) {
    return s->p99[UP] >= 0 && s->p99[UP] < 20 && s->p99[DOWN] >= 0 && s->p99[DOWN] < 20 &&
           (double)(s->frames[UP] + s->frames[DOWN]) >= 0.99 * s->expected;
}

static void capacity_reached(const char *why) {
    int best = 0;
    for (size_t i = 0; i < step_count; i++)
        if (good(&steps[i]) && steps[i].sessions > best) best = steps[i].sessions;
    printf("{\"capacity\":%d,\"limit\":\"", best);
    for (; *why; why++) putchar(*why == '"' || *why == '\\' || *why < ' ' ? '\'' : *why);
    printf("\",\"steps\":[");
    for (size_t i = 0; i < step_count; i++) {
        if (i) putchar(',');
        print_step(&steps[i]);
    }
    puts("]}");
    fflush(stdout);
    exit(0);
}

static bool measure_step(void) {
    run_for(option.warm_s);
    steps = realloc(steps, (step_count + 1) * sizeof *steps);
    if (!steps) abort();
    steps[step_count] = measure(option.seconds);
    return good(&steps[step_count++]);
}

/* More and more sessions, until two windows in a row are bad: one may be somebody else's doing. */
static void find_capacity(void) {
    warm_up();
    traffic_start();
    for (int target = option.sessions;;) {
        if (!open_up_to(target)) capacity_reached("no new session within 10 s");
        if (!measure_step() && !measure_step()) capacity_reached("p99 of 20 ms, or frames missing");
        int more = (int)(target * (option.capacity - 1));
        target += more > 0 ? more : 1;
    }
}

static void prepare(void) {
    b64_prepare();
    if (option.tls_pem) tls_prepare(option.tls_pem);
    uint64_t state = 0x853c49e6748fea9bu;
    for (size_t i = 0; i < PATTERN; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        pattern[i] = pattern[i + PATTERN] = (uint8_t)(state >> 56);
    }
    prctl(PR_SET_TIMERSLACK, 1000);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    fcntl(option.mock_fd, F_SETFL, fcntl(option.mock_fd, F_GETFL) | O_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, option.mock_fd, &event))
        die("--mock-fd: %s", strerror(errno));
}

int main(int argc, char **argv) {
    static const struct option names[] = {
        {"mock-fd", 1, 0, 'm'},  {"port", 1, 0, 'p'},      {"pid", 1, 0, 'P'},
        {"sessions", 1, 0, 'n'}, {"seconds", 1, 0, 's'},   {"warm", 1, 0, 'w'},
        {"rate", 1, 0, 'r'},     {"in-flight", 1, 0, 'i'}, {"capacity", 1, 0, 'c'},
        {"splice", 0, 0, 'S'},   {"spin", 0, 0, 'b'},      {"tls-pem", 1, 0, 't'},
        {0, 0, 0, 0},
    };
    for (int c; (c = getopt_long(argc, argv, "", names, NULL)) != -1;) switch (c) {
        case 'm': option.mock_fd = atoi(optarg); break;
        case 'p': option.port = atoi(optarg); break;
        case 'P': option.pid = atoi(optarg); break;
        case 'n': option.sessions = atoi(optarg); break;
        case 's': option.seconds = atof(optarg); break;
        case 'w': option.warm_s = atof(optarg); break;
        case 'r': option.rate = atoi(optarg); break;
        case 'i': option.in_flight = atoi(optarg); break;
        case 'c': option.capacity = atof(optarg); break;
        case 'S': option.splice = true; break;
        case 'b': option.spin = true; break;
        case 't': option.tls_pem = optarg; break;
        default: return 2;
    }
    if (option.mock_fd < 0 || option.port <= 0 || option.pid <= 0 || option.sessions < 1)
        die("--mock-fd, --port and --pid are needed, and a session at least");
    if (option.splice && option.rate != 24000) die("--splice cannot resample");
    prepare();
    if (option.capacity > 0) find_capacity();
    else load();
    return 0;
}
