// Reads WebSockets: many connections, each of which must get every version, once and in order.
//
//   watch PORT PATH CONNECTIONS READY SENDS [HEADER…]
//
// SENDS is a file: connection i sends line i of it (from the start again when there are fewer),
// with \r, \n, \t and \\ as in C. A connection is ready once it was sent something that contains
// READY. When all are, it prints {"ready": …}. Commands come on standard input, one a line:
//
//   expect FIRST LAST    prints a line once every connection has been sent FIRST … LAST
//   reset                forgets the counts and the latencies
//   drop                 closes all connections (without saying so) and ends
//
// A version is the number after "version": in what is sent; the first that a connection sees before
// anything is expected (a snapshot's) is where it begins. Latency is now less "updatedAt":"…Z".

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "histogram.h"

enum { CONNECTING, OPEN, READY };
enum { AT_ONCE = 256, BUFFER = 1 << 20 };

struct connection {
    int fd, state;
    long next;          // the version that is due; 0: not known
    unsigned char *left; // bytes of a frame that has not come whole
    size_t size;
};

static struct connection *all;
static int count, begun, ready, behind, closed;
static long expected_last;
static int expecting;
static long messages, bytes, missing, repeated;
static struct histogram latencies;
static const char *ready_mark, *path;
static char **headers;
static int header_count;
static char **sends;
static size_t *send_sizes;
static int send_count;
static struct sockaddr_in address;
static int poller;
static struct timespec start;
static unsigned char buffer[BUFFER];

static void fail(const char *what) {
    printf("{\"error\": \"%s: %s\"}\n", what, strerror(errno));
    fflush(stdout);
    exit(1);
}

static double since_start(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (now.tv_sec - start.tv_sec) + (now.tv_nsec - start.tv_nsec) / 1e9;
}

static void take_latency(const unsigned char *text, size_t size) {
    static const char mark[] = "\"updatedAt\":\"";
    static char minute[17];
    static long long minute_us;
    const unsigned char *found = memmem(text, size, mark, sizeof mark - 1);
    if (!found || found + sizeof mark - 1 + 26 > text + size) return;
    const char *at = (const char *)found + sizeof mark - 1; // 2026-01-31T12:00:00.123456Z
    if (memcmp(at, minute, 16)) {
        struct tm tm = {0};
        if (sscanf(at, "%d-%d-%dT%d:%d", &tm.tm_year, &tm.tm_mon, &tm.tm_mday, &tm.tm_hour,
                   &tm.tm_min) != 5)
            return;
        tm.tm_year -= 1900;
        tm.tm_mon -= 1;
        minute_us = (long long)timegm(&tm) * 1000000;
        memcpy(minute, at, 16);
    }
    long us = (at[17] - '0') * 10000000L + (at[18] - '0') * 1000000L;
    for (long i = 20, digit = 100000; i < 26; i++, digit /= 10) us += (at[i] - '0') * digit;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    long took = (long)(now.tv_sec * 1000000LL + now.tv_nsec / 1000 - minute_us - us);
    take(&latencies, took);
}

static void take_version(struct connection *one, long version) {
    messages++;
    if (one->next && version != one->next) {
        if (version < one->next) {
            repeated++;
            return;
        }
        missing += version - one->next;
    }
    one->next = version + 1;
    if (expecting && version == expected_last) behind--;
}

static void take_text(struct connection *one, const unsigned char *text, size_t size) {
    static const char mark[] = "\"version\":";
    const unsigned char *end = text + size, *at = text;
    while ((at = memmem(at, (size_t)(end - at), mark, sizeof mark - 1))) {
        at += sizeof mark - 1;
        long version = 0;
        while (at < end && *at >= '0' && *at <= '9') version = version * 10 + (*at++ - '0');
        take_version(one, version);
        take_latency(at, (size_t)(end - at));
    }
    if (one->state == OPEN && memmem(text, size, ready_mark, strlen(ready_mark))) {
        one->state = READY;
        ready++;
    }
}

static void write_all(int fd, const void *data, size_t size) {
    const char *at = data;
    while (size) {
        ssize_t sent = send(fd, at, size, MSG_NOSIGNAL);
        if (sent < 0 && (errno == EAGAIN || errno == EINTR)) continue;
        if (sent < 0) return; // reading will tell
        at += sent;
        size -= (size_t)sent;
    }
}

static void write_frame(int fd, int opcode, const void *data, size_t size) {
    // The mask is zero: what is sent stands as it is.
    unsigned char head[14] = {(unsigned char)(0x80 | opcode)};
    size_t used = 2;
    if (size < 126) {
        head[1] = (unsigned char)(0x80 | size);
    } else {
        head[1] = 0x80 | 126;
        head[2] = (unsigned char)(size >> 8);
        head[3] = (unsigned char)size;
        used = 4;
    }
    used += 4;
    char message[70000];
    if (size > 65535) fail("a message is too long");
    memcpy(message, head, used);
    memcpy(message + used, data, size);
    write_all(fd, message, used + size);
}

static void shut(struct connection *one) {
    if (one->fd < 0) return;
    close(one->fd);
    one->fd = -1;
    closed++;
}

// How many of the bytes were whole frames.
static size_t take_frames(struct connection *one, unsigned char *data, size_t size) {
    size_t used = 0;
    while (size - used >= 2) {
        unsigned char *head = data + used;
        size_t length = head[1] & 0x7f, before = 2;
        if (length == 126) {
            if (size - used < 4) break;
            length = (size_t)head[2] << 8 | head[3];
            before = 4;
        } else if (length == 127) {
            if (size - used < 10) break;
            length = 0;
            for (int i = 2; i < 10; i++) length = length << 8 | head[i];
            before = 10;
        }
        if (size - used < before + length) break;
        int opcode = head[0] & 0x0f;
        if (opcode == 8) {
            shut(one);
            return size;
        }
        if (opcode == 9) {
            write_frame(one->fd, 10, head + before, length);
        } else if (opcode < 3) {
            bytes += (long)(before + length);
            take_text(one, head + before, length);
        }
        used += before + length;
    }
    return used;
}

static void take_bytes(struct connection *one, unsigned char *data, size_t size) {
    size_t used = 0;
    if (one->state == CONNECTING) {
        unsigned char *end = memmem(data, size, "\r\n\r\n", 4);
        if (end) {
            if (size < 12 || memcmp(data + 9, "101", 3)) {
                errno = EPROTO;
                fail("the upgrade was refused");
            }
            one->state = OPEN;
            used = (size_t)(end - data) + 4;
            int i = (int)(one - all) % send_count;
            if (send_sizes[i]) write_frame(one->fd, 1, sends[i], send_sizes[i]);
            if (!*ready_mark) {
                one->state = READY;
                ready++;
            }
        }
    }
    if (one->state != CONNECTING) used += take_frames(one, data + used, size - used);
    free(one->left);
    one->left = NULL;
    one->size = size - used;
    if (one->size) {
        one->left = malloc(one->size);
        memcpy(one->left, data + used, one->size);
    }
}

static void take_readable(struct connection *one) {
    unsigned char *into = buffer;
    size_t before = one->size;
    if (before > BUFFER / 2) {
        errno = EMSGSIZE;
        fail("a frame");
    }
    if (before) memcpy(into, one->left, before);
    ssize_t got = recv(one->fd, into + before, BUFFER - before, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (got <= 0) {
        shut(one);
        return;
    }
    take_bytes(one, into, before + (size_t)got);
}

static void begin(struct connection *one) {
    one->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (one->fd < 0) fail("socket");
    if (connect(one->fd, (struct sockaddr *)&address, sizeof address)) fail("connect");
    int yes = 1;
    setsockopt(one->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    fcntl(one->fd, F_SETFL, O_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = one};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, one->fd, &event)) fail("epoll_ctl");
    char request[4096];
    int size = snprintf(request, sizeof request,
                        "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\n"
                        "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                        "Sec-WebSocket-Version: 13\r\n",
                        path, ntohs(address.sin_port));
    for (int i = 0; i < header_count; i++)
        size += snprintf(request + size, sizeof request - (size_t)size, "%s\r\n", headers[i]);
    size += snprintf(request + size, sizeof request - (size_t)size, "\r\n");
    write_all(one->fd, request, (size_t)size);
    begun++;
}

static void report(const char *what) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    printf("{\"%s\": %.6f, \"connections\": %d, \"closed\": %d, \"messages\": %ld, "
           "\"bytes\": %ld, \"missing\": %ld, \"repeated\": %ld, \"cpu_s\": %.6f, "
           "\"p50_us\": %ld, \"p90_us\": %ld, \"p99_us\": %ld, \"max_us\": %ld}\n",
           what, since_start(), count, closed, messages, bytes, missing, repeated,
           usage.ru_utime.tv_sec + usage.ru_utime.tv_usec / 1e6 + usage.ru_stime.tv_sec +
               usage.ru_stime.tv_usec / 1e6,
           percentile(&latencies, 50), percentile(&latencies, 90), percentile(&latencies, 99),
           latencies.longest_us);
    fflush(stdout);
}

static void expect(long first, long last) {
    expecting = 1;
    expected_last = last;
    behind = 0;
    for (int i = 0; i < count; i++) {
        if (!all[i].next) all[i].next = first;
        if (all[i].next < first) { // one before it has not come
            missing += first - all[i].next;
            all[i].next = first;
        }
        if (all[i].next <= last) behind++;
    }
}

static void obey(char *line) {
    long first, last;
    if (sscanf(line, "expect %ld %ld", &first, &last) == 2) {
        expect(first, last);
    } else if (!strncmp(line, "reset", 5)) {
        messages = bytes = 0;
        memset(&latencies, 0, sizeof latencies);
    } else if (!strncmp(line, "drop", 4)) {
        exit(0);
    }
}

static void take_commands(void) {
    static char line[4096];
    static size_t used;
    ssize_t got = read(0, line + used, sizeof line - 1 - used);
    if (got <= 0) exit(0); // whoever started it is gone
    used += (size_t)got;
    line[used] = 0;
    char *end;
    while ((end = strchr(line, '\n'))) {
        *end = 0;
        obey(line);
        used -= (size_t)(end + 1 - line);
        memmove(line, end + 1, used + 1);
    }
}

static void read_sends(const char *name) {
    FILE *file = fopen(name, "r");
    if (!file) fail(name);
    char *line = NULL;
    size_t room = 0;
    ssize_t size;
    while ((size = getline(&line, &room, file)) > 0) {
        if (line[size - 1] == '\n') line[--size] = 0;
        char *out = malloc((size_t)size + 1);
        size_t used = 0;
        for (ssize_t i = 0; i < size; i++) {
            char c = line[i];
            if (c == '\\' && i + 1 < size && strchr("rnt\\", line[i + 1])) {
                c = line[++i];
                c = c == 'r' ? '\r' : c == 'n' ? '\n' : c == 't' ? '\t' : '\\';
            }
            out[used++] = c;
        }
        sends = realloc(sends, sizeof *sends * (size_t)(send_count + 1));
        send_sizes = realloc(send_sizes, sizeof *send_sizes * (size_t)(send_count + 1));
        sends[send_count] = out;
        send_sizes[send_count++] = used;
    }
    fclose(file);
    if (!send_count) {
        errno = EINVAL;
        fail("nothing to send");
    }
}

int main(int argc, char **argv) {
    if (argc < 6) return 2;
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons((uint16_t)atoi(argv[1]));
    path = argv[2];
    count = atoi(argv[3]);
    ready_mark = argv[4];
    read_sends(argv[5]);
    headers = argv + 6;
    header_count = argc - 6;
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    all = calloc((size_t)count, sizeof *all);
    for (int i = 0; i < count; i++) all[i].fd = -1;
    poller = epoll_create1(0);
    struct epoll_event input = {.events = EPOLLIN, .data.ptr = NULL};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, 0, &input)) fail("standard input");
    clock_gettime(CLOCK_MONOTONIC, &start);
    int told = 0;
    struct epoll_event events[1024];
    for (;;) {
        while (begun < count && begun - ready - closed < AT_ONCE) begin(&all[begun]);
        if (!told && ready + closed >= count) {
            told = 1;
            report("ready");
        }
        if (expecting && (behind <= 0 || closed || missing || repeated)) {
            expecting = 0;
            report("done");
        }
        int got = epoll_wait(poller, events, 1024, -1);
        if (got < 0 && errno != EINTR) fail("epoll_wait");
        for (int i = 0; i < got; i++) {
            if (!events[i].data.ptr) take_commands();
            else take_readable(events[i].data.ptr);
        }
    }
}
