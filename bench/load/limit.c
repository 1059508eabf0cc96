// The limit of the machine: one finished frame, one bare send() to each of many WebSockets.
//
//   limit
//
// Prints its port. Commands on standard input, one a line:
//
//   send FIRST COUNT LINE    sends versions FIRST… in one frame to all, one a line; LINE is the
//                            text of one, in which @V is the version and @T the time

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 100000, LINE = 65536 };
static int fds[MOST], open_count, poller;

static void stop(const char *what) {
    perror(what);
    exit(1);
}

static void take_connection(int listener) {
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
    if (fd < 0) stop("accept");
    int yes = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event)) stop("epoll_ctl");
}

static void take_readable(int fd) {
    static const char answer[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                                 "Connection: Upgrade\r\n"
                                 "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
                                 "\x81\x05ready";
    char data[4096];
    ssize_t got = recv(fd, data, sizeof data, 0);
    if (got <= 0) {
        close(fd);
        for (int i = 0; i < open_count; i++)
            if (fds[i] == fd) fds[i] = fds[--open_count];
        return;
    }
    if (got > 4 && !memcmp(data, "GET ", 4)) { // the request of a local client comes whole
        if (send(fd, answer, sizeof answer - 1, MSG_NOSIGNAL) < 0) stop("send");
        fds[open_count++] = fd;
    }
}

static void send_all(long first, long many, const char *line) {
    static unsigned char frame[LINE * 4];
    char *text = (char *)frame + 10;
    size_t used = 0;
    struct timespec now;
    struct tm tm;
    char at[40];
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    size_t size = strftime(at, sizeof at, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(at + size, sizeof at - size, ".%06ldZ", now.tv_nsec / 1000);
    for (long i = 0; i < many; i++) {
        if (i) text[used++] = '\n';
        for (const char *c = line; *c && used + 64 < LINE; c++) {
            if (c[0] == '@' && c[1] == 'V') {
                used += (size_t)sprintf(text + used, "%ld", first + i);
                c++;
            } else if (c[0] == '@' && c[1] == 'T') {
                used += (size_t)sprintf(text + used, "%s", at);
                c++;
            } else {
                text[used++] = *c;
            }
        }
    }
    unsigned char *head = (unsigned char *)text;
    if (used < 126) {
        head -= 2;
        head[1] = (unsigned char)used;
    } else {
        head -= 4;
        head[1] = 126;
        head[2] = (unsigned char)(used >> 8);
        head[3] = (unsigned char)used;
    }
    head[0] = 0x81;
    used += (size_t)((unsigned char *)text - head);
    for (int i = 0; i < open_count; i++)
        if (send(fds[i], head, used, MSG_NOSIGNAL) != (ssize_t)used) stop("send");
}

int main(void) {
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    if (bind(listener, (struct sockaddr *)&address, size) || listen(listener, 4096)) stop("listen");
    getsockname(listener, (struct sockaddr *)&address, &size);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    poller = epoll_create1(0);
    int watched[] = {0, listener};
    for (int i = 0; i < 2; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.fd = watched[i]};
        if (epoll_ctl(poller, EPOLL_CTL_ADD, watched[i], &event)) stop("epoll_ctl");
    }
    struct epoll_event events[256];
    for (;;) {
        int got = epoll_wait(poller, events, 256, -1);
        if (got < 0 && errno != EINTR) stop("epoll_wait");
        for (int i = 0; i < got; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                take_connection(fd);
            } else if (fd == 0) {
                static char line[LINE];
                ssize_t got_line = read(0, line, sizeof line - 1);
                if (got_line <= 0) return 0;
                line[got_line] = 0;
                line[strcspn(line, "\n")] = 0;
                long first, many;
                int at = 0;
                if (sscanf(line, "send %ld %ld %n", &first, &many, &at) == 2 && at)
                    send_all(first, many, line + at);
            } else {
                take_readable(fd);
            }
        }
    }
}
