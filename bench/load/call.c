// Calls a server over HTTP/1.1: so many requests on so many connections, at a rate or flat out.
//
//   call PORT CONNECTIONS RATE COUNT REQUESTS
//
// REQUESTS is a file of requests, each as its length in decimal, a newline, and its bytes, in which
// @@@@@@@ stands for the number of the request, in seven digits. Request i is the i-th of the file
// (from the start again when there are fewer). It is due i/RATE seconds after the beginning, and
// goes out on connection i modulo CONNECTIONS once that has its last answer; how long it took counts
// from when it was due. RATE 0: each when its connection is free, and it counts from there. COUNT is
// how many there are in all, a multiple of CONNECTIONS.
//
// It prints a line when it is connected, begins when it is sent one on standard input, and prints
// another when all is answered or one was not answered with success.

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "histogram.h"

enum { ROOM = 1 << 22 };

struct connection {
    int fd, waits;    // whether for an answer
    long next;        // the request that it makes next
    double due;       // of the request that it made last
    char *got;        // of an answer that has not come whole
    size_t size, room;
    char *unsent;
    size_t unsent_size;
};

static struct connection *all;
static int connections, poller, alarm_fd;
static double rate, begun;
static long count, answered;
static char **requests;
static size_t *request_sizes, **places; // where the number goes, ended by 0
static long request_count;
static struct histogram took;
static char input[ROOM];

static void fail(const char *what) {
    printf("{\"error\": \"%s: %s\"}\n", what, strerror(errno));
    fflush(stdout);
    exit(1);
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static double due_at(long request) { return begun + (double)request / rate; }

static void wait_for_room(struct connection *one, const char *data, size_t size) {
    one->unsent = realloc(one->unsent, size);
    memmove(one->unsent, data, size);
    one->unsent_size = size;
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data.ptr = one};
    epoll_ctl(poller, EPOLL_CTL_MOD, one->fd, &event);
}

static void write_some(struct connection *one, const char *data, size_t size) {
    ssize_t sent = send(one->fd, data, size, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN) fail("send");
    if (sent < 0) sent = 0;
    if ((size_t)sent < size) wait_for_room(one, data + sent, size - (size_t)sent);
    else one->unsent_size = 0;
}

static void make(struct connection *one) {
    long i = one->next % request_count;
    char *text = requests[i], digits[32];
    snprintf(digits, sizeof digits, "%07ld", one->next % 10000000);
    for (size_t *place = places[i]; *place; place++) memcpy(text + *place, digits, 7);
    one->waits = 1;
    one->due = rate ? due_at(one->next) : now();
    one->next += connections;
    write_some(one, text, request_sizes[i]);
}

static void make_due(struct connection *one) {
    if (one->waits || one->next >= count) return;
    if (!rate || due_at(one->next) <= now()) make(one);
}

static void report(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    printf("{\"answered\": %ld, \"wall_s\": %.6f, \"cpu_s\": %.6f, \"p50_us\": %ld, "
           "\"p90_us\": %ld, \"p99_us\": %ld, \"max_us\": %ld}\n",
           answered, now() - begun,
           usage.ru_utime.tv_sec + usage.ru_utime.tv_usec / 1e6 + usage.ru_stime.tv_sec +
               usage.ru_stime.tv_usec / 1e6,
           percentile(&took, 50), percentile(&took, 90), percentile(&took, 99), took.longest_us);
    fflush(stdout);
    exit(0);
}

static void refuse(const char *answer, size_t size) {
    printf("{\"error\": \"answered with ");
    for (size_t i = 0; i < size && i < 400; i++)
        if (answer[i] >= ' ' && answer[i] != '"' && answer[i] != '\\') putchar(answer[i]);
    printf("\"}\n");
    fflush(stdout);
    exit(1);
}

// How many bytes the whole answer has that the data begins with; 0: not all of them are there.
static size_t answer_size(const char *data, size_t size) {
    const char *end = memmem(data, size, "\r\n\r\n", 4);
    if (!end) return 0;
    size_t body = 0;
    for (const char *at = data; at < end; at++)
        if (*at == '\n' && !strncasecmp(at + 1, "content-length:", 15))
            body = strtoul(at + 16, NULL, 10);
    size_t whole = (size_t)(end - data) + 4 + body;
    return whole <= size ? whole : 0;
}

static void take_bytes(struct connection *one, const char *data, size_t size) {
    if (one->size + size > one->room) {
        one->room = (one->size + size) * 2;
        one->got = realloc(one->got, one->room);
    }
    memcpy(one->got + one->size, data, size);
    one->size += size;
    size_t whole = answer_size(one->got, one->size);
    if (!whole) return;
    if (one->size < 12 || one->got[9] != '2') refuse(one->got, one->size);
    if (one->size > whole || !one->waits) refuse("more than was asked for", 23);
    one->size = 0;
    one->waits = 0;
    take(&took, (long)((now() - one->due) * 1e6));
    if (++answered == count) report();
    make_due(one);
}

static void take_event(struct connection *one, unsigned events) {
    if (events & EPOLLOUT && one->unsent_size) {
        write_some(one, one->unsent, one->unsent_size);
        if (!one->unsent_size) {
            struct epoll_event event = {.events = EPOLLIN, .data.ptr = one};
            epoll_ctl(poller, EPOLL_CTL_MOD, one->fd, &event);
        }
    }
    if (!(events & (EPOLLIN | EPOLLHUP | EPOLLERR))) return;
    ssize_t got = recv(one->fd, input, sizeof input, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) fail("a connection ended");
    take_bytes(one, input, (size_t)got);
}

static void open_one(struct connection *one, int port) {
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((unsigned short)port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    one->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (one->fd < 0) fail("socket");
    if (connect(one->fd, (struct sockaddr *)&address, sizeof address)) fail("connect");
    int yes = 1;
    setsockopt(one->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    fcntl(one->fd, F_SETFL, O_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = one};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, one->fd, &event)) fail("epoll_ctl");
}

static void read_requests(const char *name) {
    FILE *file = fopen(name, "r");
    if (!file) fail(name);
    size_t size;
    while (fscanf(file, "%zu", &size) == 1) {
        fgetc(file);
        char *text = malloc(size);
        if (fread(text, 1, size, file) != size) fail("a request is cut short");
        size_t *found = malloc(sizeof *found), places_found = 0;
        for (char *at = text; (at = memmem(at, (size_t)(text + size - at), "@@@@@@@", 7)); at += 7) {
            found = realloc(found, sizeof *found * (places_found + 2));
            found[places_found++] = (size_t)(at - text);
        }
        found[places_found] = 0;
        size_t more = (size_t)(request_count + 1);
        requests = realloc(requests, sizeof *requests * more);
        request_sizes = realloc(request_sizes, sizeof *request_sizes * more);
        places = realloc(places, sizeof *places * more);
        requests[request_count] = text;
        places[request_count] = found;
        request_sizes[request_count++] = size;
    }
    fclose(file);
    if (!request_count) {
        errno = EINVAL;
        fail("no requests");
    }
}

int main(int argc, char **argv) {
    if (argc != 6) return 2;
    int port = atoi(argv[1]);
    connections = atoi(argv[2]);
    rate = atof(argv[3]);
    count = atol(argv[4]);
    read_requests(argv[5]);
    all = calloc((size_t)connections, sizeof *all);
    poller = epoll_create1(0);
    for (int i = 0; i < connections; i++) {
        all[i].next = i;
        open_one(&all[i], port);
    }
    printf("{\"ready\": %d}\n", connections);
    fflush(stdout);
    char line[16];
    if (read(0, line, sizeof line) <= 0) return 0;
    begun = now();
    if (rate) {
        alarm_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
        epoll_ctl(poller, EPOLL_CTL_ADD, alarm_fd, &event);
    } else {
        for (int i = 0; i < connections; i++) make(&all[i]);
    }
    long first = 0; // none before it is still to become due
    struct epoll_event events[256];
    for (;;) {
        if (rate) {
            while (first < count && due_at(first) <= now()) make_due(&all[first++ % connections]);
            double left = first < count ? due_at(first) - now() : 1;
            if (left < 1e-6) left = 1e-6;
            struct itimerspec next = {.it_value = {(time_t)left, (long)((left - (long)left) * 1e9)}};
            timerfd_settime(alarm_fd, 0, &next, NULL);
        }
        int got = epoll_wait(poller, events, 256, -1);
        if (got < 0 && errno != EINTR) fail("epoll_wait");
        for (int i = 0; i < got; i++) {
            struct connection *one = events[i].data.ptr;
            long ticks;
            if (one) take_event(one, events[i].events);
            else if (read(alarm_fd, &ticks, sizeof ticks) < 0 && errno != EAGAIN) fail("timer");
        }
    }
}
