/*
 * The yardstick: a UDP relay in C with one recvfrom(2) and one sendto(2) per packet, as the Bees paper
 * measured it.
 *
 *     relay PORT NEXT-ADDRESS NEXT-PORT
 *
 * Receives on PORT of every address and sends each payload, unchanged, to NEXT. Prints "ready" when it
 * listens. Runs until it is killed, or its parent ends.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>

/* Bytes that the kernel may keep for us in each direction. */
static const int SOCKET_BUFFER = 16 << 20;

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

/* Root may go beyond the system's limit (the first call); everybody else gets what the limit allows. */
static void enlarge(int fd, int force, int plain)
{
    if (setsockopt(fd, SOL_SOCKET, force, &SOCKET_BUFFER, sizeof SOCKET_BUFFER) < 0 &&
        setsockopt(fd, SOL_SOCKET, plain, &SOCKET_BUFFER, sizeof SOCKET_BUFFER) < 0)
        fail("setsockopt");
}

static struct sockaddr_in address(const char *ip, const char *port)
{
    struct sockaddr_in a;
    memset(&a, 0, sizeof a);
    a.sin_family = AF_INET;
    a.sin_port = htons((unsigned short)atoi(port));
    if (inet_pton(AF_INET, ip, &a.sin_addr) != 1) {
        fprintf(stderr, "relay: not an IPv4 address: %s\n", ip);
        exit(2);
    }
    return a;
}

int main(int argc, char **argv)
{
    static char packet[65536];

    if (argc != 4) {
        fprintf(stderr, "usage: relay PORT NEXT-ADDRESS NEXT-PORT\n");
        return 2;
    }
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
        fail("prctl");
    struct sockaddr_in own = address("0.0.0.0", argv[1]);
    struct sockaddr_in next = address(argv[2], argv[3]);
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    if (fd < 0)
        fail("socket");
    enlarge(fd, SO_RCVBUFFORCE, SO_RCVBUF);
    enlarge(fd, SO_SNDBUFFORCE, SO_SNDBUF);
    if (bind(fd, (struct sockaddr *)&own, sizeof own) < 0)
        fail("bind");
    puts("ready");
    fflush(stdout);
    for (;;) {
        struct sockaddr_in from;
        socklen_t from_len = sizeof from;
        ssize_t n = recvfrom(fd, packet, sizeof packet, 0, (struct sockaddr *)&from, &from_len);
        if (n < 0)
            fail("recvfrom");
        /* A full queue or a device that is down loses the packet, as a router would. */
        (void)sendto(fd, packet, (size_t)n, 0, (struct sockaddr *)&next, sizeof next);
    }
}
