/* echo: what a program says at one node comes back from every neighbor, with that node's name and the time it took.
 *
 * README.md says how it is built. Capsule: 1 byte (0 there, 1 back), the asker's clock (8), the text, on the way back
 * also " from " and the node's name. */
#include "bees.h"

BEES_PROTOCOL
BEES_DESCRIPTION("echo",
    1, BEES_TYPE("Echo", 1, 0, 1, 0, 0, ""),
    BEES_NONE, BEES_NONE, BEES_BRINGS(0),
    1,
    0, "")

#define HEADER 9
#define MAX_TEXT 200
#define MAX_NAME 32

struct capsule {
    uint8_t back;
    uint8_t clock[8];
    char text[MAX_TEXT + MAX_NAME + 32];
};

static struct capsule buffer;
static bees_handle asker;

static uint32_t append(uint32_t at, const char *text) {
    while (*text && at < sizeof buffer.text) buffer.text[at++] = *text++;
    return at;
}

static uint32_t append_number(uint32_t at, uint64_t number) {
    char digits[20];
    uint32_t count = 0;
    do digits[count++] = '0' + number % 10; while (number /= 10);
    while (count && at < sizeof buffer.text) buffer.text[at++] = digits[--count];
    return at;
}

static void set_clock(uint64_t now) {
    for (int i = 0; i < 8; i++) buffer.clock[i] = now >> 8 * i;
}

static uint64_t get_clock(void) {
    uint64_t then = 0;
    for (int i = 0; i < 8; i++) then |= (uint64_t) buffer.clock[i] << 8 * i;
    return then;
}

/* Puts the header and `len` bytes of text into a capsule. */
static int fill(bees_handle capsule, uint32_t len) {
    return bees_capsule_resize(capsule, HEADER + len) == 0
        && bees_capsule_write(capsule, 0, &buffer, HEADER + len) == 0;
}

/* A program's line goes to all neighbors. */
BEES_EXPORT(on_session) void on_session(bees_handle capsule, bees_handle session, enum bees_session_event what, uint32_t len) {
    if (what == BEES_CLOSED && session == asker) asker = 0;
    if (what != BEES_PACKET) return;
    asker = session;
    int32_t got = bees_session_read(session, 0, buffer.text, len < MAX_TEXT ? len : MAX_TEXT);
    bees_handle neighbors = bees_cap_lookup("neighborhood", 12);
    if (got < 0 || (int32_t) neighbors < 0) return;
    buffer.back = 0;
    set_clock(bees_clock_mono());
    if (fill(capsule, got)) bees_capsule_multicast(capsule, neighbors, 0);
}

/* A neighbor's question goes back with our name; an answer is for the program. */
BEES_EXPORT(on_capsule) void on_capsule(bees_handle capsule, uint32_t kind, uint32_t len, bees_handle from) {
    if (len < HEADER || len > HEADER + MAX_TEXT + MAX_NAME + 6) return;
    if (bees_capsule_read(capsule, 0, &buffer, len) < 0) return;
    uint32_t end = len - HEADER;
    if (buffer.back) {
        end = append(end, ", us ");
        end = append_number(end, bees_clock_mono() - get_clock());
        if (asker) bees_session_reply(asker, buffer.text, end);
        return;
    }
    char name[MAX_NAME + 1] = {0};
    if (end > MAX_TEXT || bees_node_name(name, MAX_NAME) < 0) return;
    buffer.back = 1;
    end = append(append(end, " from "), name);
    if (fill(capsule, end)) bees_capsule_return(capsule, 0);
}
