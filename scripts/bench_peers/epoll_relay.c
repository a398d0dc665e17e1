/* epoll_relay: the floor. One thread, one epoll; one receive, one translation and one send for
   whatever has arrived.

   It translates what every contestant translates and nothing else, and trusts both peers: what it
   costs is what the kernel and the bytes cost. It is no relay to run.

       epoll_relay PORT ws://127.0.0.1:PORT/PATH
*/
#define _GNU_SOURCE
#include "../bench_lib/ws.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { SCRATCH = 1 << 20, EVENTS = 64 };

struct pair;

struct leg {
    struct pair *pair;
    int fd;
    bool faces_client, connected, open, wants_write;
    struct bytes in, out;
};

struct pair {
    struct leg client, upstream;
    struct bytes settings;
    bool created, over;
    struct pair *next_over;
};

static int epoll_fd, upstream_port;
static char upstream_path[256];
static uint8_t scratch[SCRATCH], audio[SCRATCH];
static struct pair *over; /* freed when the events at hand are handled: one may still name it */

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void leg_watch(struct leg *leg, int operation) {
    uint32_t events = EPOLLIN | (leg->wants_write ? EPOLLOUT : 0u);
    struct epoll_event event = {.events = events, .data.ptr = leg};
    if (epoll_ctl(epoll_fd, operation, leg->fd, &event)) fail("epoll_ctl");
}

static void leg_begin(struct leg *leg, struct pair *pair, int fd, bool faces_client) {
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    *leg = (struct leg){.pair = pair, .fd = fd, .faces_client = faces_client};
    leg->connected = faces_client, leg->wants_write = !faces_client;
    leg_watch(leg, EPOLL_CTL_ADD);
}

static void pair_begin(int fd) {
    struct pair *pair = calloc(1, sizeof *pair);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)upstream_port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int dialled = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (!pair || dialled < 0) fail("a new connection");
    if (connect(dialled, (struct sockaddr *)&to, sizeof to) && errno != EINPROGRESS) fail("connect");
    leg_begin(&pair->client, pair, fd, true);
    leg_begin(&pair->upstream, pair, dialled, false);
}

static void pair_end(struct pair *pair) {
    if (pair->over) return;
    pair->over = true;
    pair->next_over = over;
    over = pair;
    close(pair->client.fd), close(pair->upstream.fd);
    bytes_free(&pair->client.in), bytes_free(&pair->client.out);
    bytes_free(&pair->upstream.in), bytes_free(&pair->upstream.out);
    bytes_free(&pair->settings);
}

static void leg_flush(struct leg *leg) {
    if (leg->pair->over || !leg->connected) return;
    if (leg->out.len) {
        ssize_t n = send(leg->fd, leg->out.data, leg->out.len, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno != EAGAIN) {
            pair_end(leg->pair);
            return;
        }
        if (n > 0) bytes_drop(&leg->out, (size_t)n);
    }
    if (leg->wants_write != (leg->out.len > 0)) {
        leg->wants_write = leg->out.len > 0;
        leg_watch(leg, EPOLL_CTL_MOD);
    }
}

/* -- the translation -------------------------------------------------------------------------- */

static void configure(struct pair *pair) {
    if (!pair->created || !pair->settings.len) return;
    struct slice settings = {(char *)pair->settings.data, pair->settings.len};
    struct slice think = json_member(json_member(settings, "agent"), "think");
    struct slice prompt = json_member(think, "prompt"); /* stays escaped, as it came */
    struct bytes *out = &pair->upstream.out;
    static const char head[] = "{\"type\":\"session.update\",\"session\":{\"type\":\"realtime\","
                               "\"instructions\":\"";
    uint8_t *p = ws_begin(out, WS_TEXT, sizeof head - 1 + prompt.len + 3, true), *begin = p;
    memcpy(p, head, sizeof head - 1), p += sizeof head - 1;
    if (prompt.len) memcpy(p, prompt.at, prompt.len), p += prompt.len;
    memcpy(p, "\"}}", 3);
    ws_seal(begin, sizeof head - 1 + prompt.len + 3, true);
    pair->settings.len = 0;
}

static void client_text(struct pair *pair, struct slice text) {
    if (!slice_is(json_member(text, "type"), "Settings")) return;
    bytes_add(&pair->settings, text.at, text.len);
    configure(pair);
}

static void client_audio(struct pair *pair, const uint8_t *data, size_t len) {
    static const char head[] = "{\"type\":\"input_audio_buffer.append\",\"audio\":\"";
    size_t coded = b64_length(len), size = sizeof head - 1 + coded + 2;
    uint8_t *p = ws_begin(&pair->upstream.out, WS_TEXT, size, true);
    memcpy(p, head, sizeof head - 1);
    b64_encode((char *)p + sizeof head - 1, data, len);
    memcpy(p + sizeof head - 1 + coded, "\"}", 2);
    ws_seal(p, size, true);
}

static void upstream_text(struct pair *pair, struct slice text) {
    struct slice type = json_member(text, "type");
    if (slice_is(type, "response.output_audio.delta")) {
        struct slice delta = json_member(text, "delta");
        ssize_t len = delta.at ? b64_decode(audio, (const uint8_t *)delta.at, delta.len) : -1;
        if (len > 0) ws_send(&pair->client.out, WS_BINARY, audio, (size_t)len, false);
    } else if (slice_is(type, "session.created")) {
        pair->created = true;
        configure(pair);
    } else if (slice_is(type, "session.updated")) {
        ws_text(&pair->client.out, "{\"type\":\"SettingsApplied\"}", false);
    }
}

/* -- frames and events ------------------------------------------------------------------------ */

static void leg_frame(struct leg *leg, struct frame *f) {
    struct slice text = {(char *)f->payload, f->len};
    switch (f->opcode) {
    case WS_TEXT:
        if (leg->faces_client) client_text(leg->pair, text);
        else upstream_text(leg->pair, text);
        break;
    case WS_BINARY:
        if (leg->faces_client) client_audio(leg->pair, f->payload, f->len);
        break;
    case WS_PING:
        ws_send(&leg->out, WS_PONG, f->payload, f->len, !leg->faces_client);
        break;
    case WS_CLOSE: {
        struct pair *pair = leg->pair;
        ws_send(&pair->client.out, WS_CLOSE, "\x03\xe8", 2, false);
        ws_send(&pair->upstream.out, WS_CLOSE, "\x03\xe8", 2, true);
        leg_flush(&pair->client);
        leg_flush(&pair->upstream);
        pair_end(pair);
        break;
    }
    default:
        break;
    }
}

static size_t leg_parse(struct leg *leg, uint8_t *data, size_t len) {
    if (!leg->open) {
        size_t head = http_head(data, len);
        if (!head) return 0;
        leg->open = leg->faces_client ? ws_answer(&leg->out, data, head) : ws_accepted(data, head);
        if (!leg->open) pair_end(leg->pair);
        else if (leg->faces_client)
            ws_text(&leg->out, "{\"type\":\"Welcome\",\"request_id\":\"floor\"}", false);
        return head;
    }
    struct frame frame;
    ssize_t used = ws_frame(data, len, leg->faces_client, &frame);
    if (used > 0) leg_frame(leg, &frame);
    if (used < 0) pair_end(leg->pair);
    return used > 0 ? (size_t)used : 0;
}

static void leg_readable(struct leg *leg) {
    struct pair *pair = leg->pair;
    size_t have = leg->in.len, at = 0, used;
    if (have) memcpy(scratch, leg->in.data, have);
    ssize_t n = recv(leg->fd, scratch + have, SCRATCH - have, MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) {
        pair_end(pair);
        return;
    }
    size_t len = have + (size_t)n;
    while (!pair->over && at < len && (used = leg_parse(leg, scratch + at, len - at))) at += used;
    if (pair->over) return;
    leg->in.len = 0;
    bytes_add(&leg->in, scratch + at, len - at);
    if (pair->client.out.len && !pair->client.wants_write) leg_flush(&pair->client);
    if (pair->upstream.out.len && !pair->upstream.wants_write) leg_flush(&pair->upstream);
}

static void leg_writable(struct leg *leg) {
    if (!leg->connected) {
        leg->connected = true;
        /* In front of what may have been queued: nothing, as that waits for session.created. */
        ws_request(&leg->out, upstream_path, upstream_port);
    }
    leg_flush(leg);
}

static int listen_on(int port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof at) || listen(fd, 1024)) fail("listen");
    return fd;
}

int main(int argc, char **argv) {
    if (argc != 3 ||
        sscanf(argv[2], "ws://127.0.0.1:%d%255s", &upstream_port, upstream_path) != 2) {
        fprintf(stderr, "usage: epoll_relay PORT ws://127.0.0.1:PORT/PATH\n");
        return 2;
    }
    b64_prepare();
    int listener = listen_on(atoi(argv[1]));
    struct epoll_event events[EVENTS], event = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &event)) fail("epoll_ctl");
    for (;;) {
        int count = epoll_wait(epoll_fd, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            struct leg *leg = events[i].data.ptr;
            int fd;
            if (!leg) {
                while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0)
                    pair_begin(fd);
                continue;
            }
            if (!leg->pair->over && events[i].events & EPOLLOUT) leg_writable(leg);
            if (!leg->pair->over && events[i].events & ~(uint32_t)EPOLLOUT) leg_readable(leg);
        }
        for (struct pair *next; over; over = next) next = over->next_over, free(over);
    }
}
