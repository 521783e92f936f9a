/* The guest interface, version 1, for protocols in C. docs/abi says what each function does; echo.c is an example.
 *
 *     clang --target=wasm32 -mcpu=mvp -mbulk-memory -mmutable-globals -O2 -ffreestanding -fno-builtin -nostdlib -Wl,--no-entry \
 *           -Wl,--export=bees_inbox -Wl,--strip-all -Wl,--stack-first -Wl,-zstack-size=8192 \
 *           -Wl,--export=__stack_pointer -Wl,--initial-memory=65536 -Wl,--max-memory=65536 -o mine.wasm mine.c
 *
 * or `cargo xtask protocol build FOLDER`. One file of the protocol contains BEES_PROTOCOL, which defines the marker and
 * the inbox, and BEES_DESCRIPTION, which says what the protocol is. Handlers are defined with BEES_EXPORT; those that
 * are not needed are left out. There is no C library.
 */
#ifndef BEES_H
#define BEES_H

#include <stdint.h>

#define BEES_IMPORT(name) __attribute__((import_module("bees"), import_name(#name)))
#define BEES_EXPORT(name) __attribute__((export_name(#name)))

#define BEES_INBOX 64

/* The marker of interface version 1, and where the node puts the first bytes of what a handler is about. */
#define BEES_PROTOCOL \
    BEES_EXPORT(bees_abi_1) void bees_abi_1(void) {} \
    __attribute__((used)) uint8_t bees_inbox[BEES_INBOX];
extern uint8_t bees_inbox[BEES_INBOX];

/* What the protocol is, in the module's section `bees`: its name, its capsule types, the types that events bring, whether
 * programs may open sessions, its parameters. Counts come first, as numbers; the rest are these macros, one after the
 * other without commas:
 *
 *     BEES_DESCRIPTION("name",
 *         2, BEES_TYPE("Question", 0, 0, 1, 4, 1, "1") BEES_TYPE("Answer", 0, 1, 0, 0, 0, ""),
 *         BEES_NONE, BEES_NONE, BEES_BRINGS(0),
 *         1,
 *         1, BEES_PARAM("hops", "64"))
 *
 * BEES_TYPE: name; how often after an event it may be returned, sent, multicast and derived from; how many types may be
 * derived from it, and their numbers as text, with commas. Types are numbered from 0 in their order. BEES_NONE and
 * BEES_BRINGS say which type boot, timer and session bring. A count that is wrong makes a description that
 * `bees flow build` refuses.
 */
#define BEES_TEXT(text) ".uleb128 1f-0f\n0: .ascii \"" text "\"\n1:\n"
#define BEES_NUMBER(number) ".uleb128 " #number "\n"
#define BEES_TYPE(name, returns, sends, multicasts, derives, count, into) \
    BEES_TEXT(name) BEES_NUMBER(returns) BEES_NUMBER(sends) BEES_NUMBER(multicasts) BEES_NUMBER(derives) \
    BEES_NUMBER(count) ".byte " into "\n"
#define BEES_NONE ".byte 0\n"
#define BEES_BRINGS(kind) ".byte 1, " #kind "\n"
#define BEES_PARAM(name, value) BEES_TEXT(name) BEES_TEXT(value)
#define BEES_DESCRIPTION(name, kinds, kind_list, boot, timer, session, sessions, params, param_list) \
    __asm__(".section .custom_section.bees,\"\",@\n.byte 1\n" BEES_TEXT(name) BEES_NUMBER(kinds) kind_list \
        boot timer session ".byte " #sessions "\n" BEES_NUMBER(params) param_list ".byte 0\n.text\n");

/* An index and a generation; 0 names nothing. */
typedef uint32_t bees_handle;

/* Results below 0. */
enum bees_error {
    BEES_BAD_HANDLE = -1,
    BEES_BAD_POINTER = -2,
    BEES_BAD_ARGUMENT = -3,
    BEES_DEPLETED = -4,
    BEES_NO_MEMORY = -5,
    BEES_NO_BANDWIDTH = -6,
    BEES_NO_ROOM = -7,
    BEES_NOT_FOUND = -8,
    BEES_NOT_PERMITTED = -9,
    BEES_UNAVAILABLE = -10,
    BEES_TOO_LARGE = -11,
    BEES_WRONG_PROOF = -12
};

enum bees_operation { BEES_RETURNS, BEES_SENDS, BEES_MULTICASTS, BEES_DERIVES };
enum bees_resource {
    BEES_MEMORY, BEES_PROCESSOR, BEES_BANDWIDTH, BEES_CODE, BEES_TIMERS, BEES_TIMERS_TOTAL, BEES_EVENTS_TOTAL,
    BEES_SESSIONS_OPEN, BEES_CACHE_ENTRIES, BEES_FLOWS, BEES_FLOWS_TOTAL, BEES_DOWNLOAD, BEES_COMPILE
};
enum bees_level { BEES_ERROR, BEES_WARN, BEES_INFO, BEES_DEBUG };
enum bees_scheme { BEES_ED25519, BEES_RSA_PSS_SHA256 };
enum bees_session_event { BEES_OPENED, BEES_PACKET, BEES_CLOSED, BEES_ROOM };

enum bees_flow_state { BEES_STARTING, BEES_RUNNING, BEES_ENDED };

enum bees_news { BEES_DEAD, BEES_ALIVE, BEES_FOUND, BEES_GONE };

/* A node that is known: what it calls itself, without a zero behind it; how far it is, 1 is a neighbor; since when it has not
 * said anything itself, and for how long it is still believed to be there. */
struct bees_node {
    char name[32];
    uint8_t name_len, hops, zero[2];
    uint32_t age_ms, left_ms, more;
};

/* Flags of capsule_send, capsule_return and capsule_multicast. */
#define BEES_KEEP 1u
#define BEES_NOT_BACK 2u

/* Handlers. A capsule, or a neighbor it came from, may be 0. */
BEES_EXPORT(on_boot) void on_boot(bees_handle capsule);
BEES_EXPORT(on_capsule) void on_capsule(bees_handle capsule, uint32_t kind, uint32_t len, bees_handle from);
BEES_EXPORT(on_timer) void on_timer(bees_handle capsule, bees_handle timer, int64_t token);
BEES_EXPORT(on_session) void on_session(bees_handle capsule, bees_handle session, enum bees_session_event what, uint32_t len);
BEES_EXPORT(on_expiry) uint32_t on_expiry(uint32_t key_len);
BEES_EXPORT(on_warning) void on_warning(enum bees_resource resource);
BEES_EXPORT(on_companion) int32_t on_companion(bees_handle capsule, bees_handle from, uint32_t operation, uint32_t len); /* >= 0, or an error */
BEES_EXPORT(on_flow) void on_flow(bees_handle flow, enum bees_flow_state state);
BEES_EXPORT(on_call) void on_call(bees_handle capsule, bees_handle call, uint32_t operation, uint32_t len);
BEES_EXPORT(on_answer) void on_answer(bees_handle companion, uint32_t number, int32_t result, uint32_t len); /* >= 0, or an error */
BEES_EXPORT(on_stop) void on_stop(void);
BEES_EXPORT(on_handover) int32_t on_handover(void); /* 0, or the flow keeps its state; it may fail, so it only looks */
BEES_EXPORT(on_takeover) int32_t on_takeover(bees_handle capsule, uint32_t len); /* 0, or the version before goes on */
BEES_EXPORT(on_neighbor) void on_neighbor(bees_handle neighbor, enum bees_news news);

/* Capsule. */
BEES_IMPORT(capsule_len) int32_t bees_capsule_len(bees_handle capsule); /* length of the payload */
BEES_IMPORT(capsule_kind) int32_t bees_capsule_kind(bees_handle capsule); /* its type */
BEES_IMPORT(capsule_read) int32_t bees_capsule_read(bees_handle capsule, uint32_t offset, void *to, uint32_t len); /* bytes copied */
BEES_IMPORT(capsule_write) int32_t bees_capsule_write(bees_handle capsule, uint32_t offset, const void *from, uint32_t len); /* 0 */
BEES_IMPORT(capsule_resize) int32_t bees_capsule_resize(bees_handle capsule, uint32_t len); /* 0 */
BEES_IMPORT(capsule_left) int32_t bees_capsule_left(bees_handle capsule, enum bees_operation operation); /* how often it can still be done */
BEES_IMPORT(capsule_derive) int32_t bees_capsule_derive(bees_handle capsule, uint32_t kind); /* an empty capsule of that type */
BEES_IMPORT(capsule_send) int32_t bees_capsule_send(bees_handle capsule, bees_handle neighbor, uint32_t flags); /* 0 */
BEES_IMPORT(capsule_return) int32_t bees_capsule_return(bees_handle capsule, uint32_t flags); /* 0 */
BEES_IMPORT(capsule_multicast) int32_t bees_capsule_multicast(bees_handle capsule, bees_handle neighborhood, uint32_t flags); /* neighbors reached */
BEES_IMPORT(capsule_drop) int32_t bees_capsule_drop(bees_handle capsule); /* 0 */

/* Capabilities. */
BEES_IMPORT(cap_lookup) int32_t bees_cap_lookup(const char *name, uint32_t len); /* a capability: "neighborhood", "neighbor/NAME", "companion/INTERFACE", "parent", "sensors", "node-key", "blobs", "flows", "queues" */
BEES_IMPORT(cap_name) int32_t bees_cap_name(bees_handle capability, char *to, uint32_t max); /* length of the name */
BEES_IMPORT(cap_duplicate) int32_t bees_cap_duplicate(bees_handle capability, uint32_t rights); /* a capability with fewer rights */
BEES_IMPORT(cap_drop) int32_t bees_cap_drop(bees_handle capability); /* 0 */
BEES_IMPORT(cap_revoke) int32_t bees_cap_revoke(bees_handle capability); /* 0 */
BEES_IMPORT(neighborhood_list) int32_t bees_neighborhood_list(bees_handle neighborhood, bees_handle *to, uint32_t max); /* how many members there are */
BEES_IMPORT(neighborhood_make) int32_t bees_neighborhood_make(const bees_handle *neighbors, uint32_t count); /* a neighborhood */
BEES_IMPORT(neighbor_max_payload) int32_t bees_neighbor_max_payload(bees_handle neighbor); /* bytes */
BEES_IMPORT(neighbor_serve) int32_t bees_neighbor_serve(bees_handle neighbor, uint32_t serve); /* 0 */
BEES_IMPORT(neighbor_watch) int32_t bees_neighbor_watch(bees_handle neighbor, int64_t poke_us, int64_t expire_us); /* 0 */
BEES_IMPORT(neighbor_unwatch) int32_t bees_neighbor_unwatch(bees_handle neighbor); /* 0 */
BEES_IMPORT(neighbor_alive) int32_t bees_neighbor_alive(bees_handle neighbor); /* 1: alive, 0: dead */
BEES_IMPORT(nodes_known) int32_t bees_nodes_known(bees_handle neighborhood, uint32_t from, struct bees_node *to, uint32_t max); /* how many there are */

/* Marks on capsules, hop by hop. */
BEES_IMPORT(integrity_set) int32_t bees_integrity_set(bees_handle neighbor, const void *key, uint32_t len); /* 0 */
BEES_IMPORT(integrity_clear) int32_t bees_integrity_clear(bees_handle neighbor); /* 0 */

/* Soft state. */
BEES_IMPORT(cache_put) int32_t bees_cache_put(const void *key, uint32_t key_len, const void *value, uint32_t len, uint32_t ttl_ms); /* 0 */
BEES_IMPORT(cache_get) int32_t bees_cache_get(const void *key, uint32_t key_len, void *to, uint32_t max); /* length of the value */
BEES_IMPORT(cache_refresh) int32_t bees_cache_refresh(const void *key, uint32_t key_len, uint32_t ttl_ms); /* 0 */
BEES_IMPORT(cache_remove) int32_t bees_cache_remove(const void *key, uint32_t key_len); /* 0 */

/* Timers. */
BEES_IMPORT(timer_set) int32_t bees_timer_set(int64_t after_us, int64_t period_us, int64_t token); /* a timer */
BEES_IMPORT(timer_cancel) int32_t bees_timer_cancel(bees_handle timer); /* 0 */

/* Sessions. */
BEES_IMPORT(session_read) int32_t bees_session_read(bees_handle session, uint32_t offset, void *to, uint32_t len); /* bytes copied */
BEES_IMPORT(session_reply) int32_t bees_session_reply(bees_handle session, const void *packet, uint32_t len); /* 0 */
BEES_IMPORT(session_close) int32_t bees_session_close(bees_handle session); /* 0 */

/* The node. */
BEES_IMPORT(node_name) int32_t bees_node_name(char *to, uint32_t max); /* length of the name */
BEES_IMPORT(flow_hash) int32_t bees_flow_hash(uint8_t to[32]); /* 0 */
BEES_IMPORT(param_get) int32_t bees_param_get(const char *name, uint32_t name_len, void *to, uint32_t max); /* length of the value */
BEES_IMPORT(data_read) int32_t bees_data_read(const char *name, uint32_t name_len, uint32_t offset, void *to, uint32_t len); /* bytes copied */
BEES_IMPORT(clock_mono) int64_t bees_clock_mono(void); /* microseconds since the node's start */
BEES_IMPORT(clock_wall) int64_t bees_clock_wall(void); /* seconds since 1970 */
BEES_IMPORT(random) int32_t bees_random(void *to, uint32_t len); /* 0 */
BEES_IMPORT(log) int32_t bees_log(enum bees_level level, const char *line, uint32_t len); /* 0 */
BEES_IMPORT(budget_left) int64_t bees_budget_left(enum bees_resource resource); /* what is left */

/* Cryptography. */
BEES_IMPORT(hash_sha256) int32_t bees_hash_sha256(const void *bytes, uint32_t len, uint8_t to[32]); /* 0 */
BEES_IMPORT(hash_md5) int32_t bees_hash_md5(const void *bytes, uint32_t len, uint8_t to[16]); /* 0 */
BEES_IMPORT(hmac_sha256) int32_t bees_hmac_sha256(const void *key, uint32_t key_len, const void *bytes, uint32_t len, uint8_t to[32]); /* 0 */
BEES_IMPORT(signature_check) int32_t bees_signature_check(enum bees_scheme scheme, const void *key, uint32_t key_len, const void *bytes, uint32_t len, const void *signature, uint32_t signature_len); /* 0: it is right */
BEES_IMPORT(aead_seal) int32_t bees_aead_seal(const uint8_t key_and_nonce[44], const void *beside, uint32_t beside_len, const void *text, uint32_t len, void *to); /* len + 16 */
BEES_IMPORT(aead_open) int32_t bees_aead_open(const uint8_t key_and_nonce[44], const void *beside, uint32_t beside_len, const void *sealed, uint32_t len, void *to); /* len - 16 */

/* The node's key and its sensors: for flows with these privileges. */
BEES_IMPORT(key_sign) int32_t bees_key_sign(bees_handle key, const void *bytes, uint32_t len, uint8_t to[64]); /* 0 */
BEES_IMPORT(key_public) int32_t bees_key_public(bees_handle key, uint8_t to[32]); /* 0 */
BEES_IMPORT(sensor_list) int32_t bees_sensor_list(bees_handle sensors, char *to, uint32_t max); /* bytes of the names, a line each */
BEES_IMPORT(sensor_read) int32_t bees_sensor_read(bees_handle sensors, const char *name, uint32_t name_len, int64_t *to); /* 0 */

/* What the node keeps for this flow: for flows with the privilege "blobs". */
BEES_IMPORT(blob_put) int32_t bees_blob_put(bees_handle blobs, const void *name, uint32_t name_len, const void *bytes, uint32_t len); /* 0 */
BEES_IMPORT(blob_get) int32_t bees_blob_get(bees_handle blobs, const void *name, uint32_t name_len, uint32_t offset, void *to, uint32_t len); /* bytes copied */
BEES_IMPORT(blob_len) int32_t bees_blob_len(bees_handle blobs, const void *name, uint32_t name_len); /* length of the blob */
BEES_IMPORT(blob_list) int32_t bees_blob_list(bees_handle blobs, uint32_t index, void *to, uint32_t max); /* length of the name */
BEES_IMPORT(blob_remove) int32_t bees_blob_remove(bees_handle blobs, const void *name, uint32_t name_len); /* 0 */

/* Envelopes. */
BEES_IMPORT(seal_make) int32_t bees_seal_make(bees_handle sealer_and_unsealer[2]); /* 0 */
BEES_IMPORT(envelope_make) int32_t bees_envelope_make(bees_handle capability, const uint8_t *flow, uint32_t flow_len, uint8_t id[16]); /* 0 */
BEES_IMPORT(envelope_seal) int32_t bees_envelope_seal(const uint8_t id[16], bees_handle sealer); /* 0 */
BEES_IMPORT(envelope_lock) int32_t bees_envelope_lock(const uint8_t id[16], enum bees_scheme scheme, const void *key, uint32_t key_len); /* 0 */
BEES_IMPORT(envelope_open) int32_t bees_envelope_open(const uint8_t id[16], bees_handle unsealer, const void *proof, uint32_t proof_len); /* a capability */
BEES_IMPORT(envelope_void) int32_t bees_envelope_void(const uint8_t id[16]); /* 0 */

/* The other protocols of the same flow. Messages and answers have 16 KiB at most. */
BEES_IMPORT(companion_call) int32_t bees_companion_call(bees_handle companion, uint32_t operation, const void *message, uint32_t len); /* what it returns */
BEES_IMPORT(companion_read) int32_t bees_companion_read(uint32_t offset, void *to, uint32_t len); /* bytes copied */
BEES_IMPORT(companion_reply) int32_t bees_companion_reply(const void *answer, uint32_t len); /* 0 */
BEES_IMPORT(companion_answer) int32_t bees_companion_answer(uint32_t offset, void *to, uint32_t len); /* bytes copied */
BEES_IMPORT(companion_deny) int32_t bees_companion_deny(bees_handle companion, bees_handle neighbor); /* 0 */

/* From one version of the flow to the next: on_handover writes, on_takeover reads. */
BEES_IMPORT(handover_write) int32_t bees_handover_write(const void *from, uint32_t len); /* 0 */
BEES_IMPORT(handover_read) int32_t bees_handover_read(uint32_t offset, void *to, uint32_t len); /* bytes copied */
BEES_IMPORT(handover_session) int32_t bees_handover_session(bees_handle session); /* the session that had this number in the version before */

/* Other flows of the node, and its own services: on_answer has what came of a request, on_call what others want. */
BEES_IMPORT(companion_ask) int32_t bees_companion_ask(bees_handle companion, uint32_t operation, const void *message, uint32_t len); /* the number of its answer */
BEES_IMPORT(companion_settle) int32_t bees_companion_settle(bees_handle call, int32_t result, const void *answer, uint32_t len); /* 0 */
BEES_IMPORT(companion_caller) int32_t bees_companion_caller(bees_handle call, uint8_t hash[32]); /* 0 */

/* When what the running event is about came; how many frames wait for the link to a neighbor (privilege "queues"). */
BEES_IMPORT(event_since) int64_t bees_event_since(void); /* microseconds */
BEES_IMPORT(link_waiting) int32_t bees_link_waiting(bees_handle queues, bees_handle neighbor); /* frames */

/* Flows below this one: for flows with the privilege "flows". Bits of give: 1 << a resource. */
BEES_IMPORT(flow_start) int32_t bees_flow_start(bees_handle flows, const void *tuple, uint32_t len, uint32_t give); /* a flow */
BEES_IMPORT(flow_state) int32_t bees_flow_state(bees_handle flow); /* its state */
BEES_IMPORT(flow_stop) int32_t bees_flow_stop(bees_handle flow, uint32_t kill); /* 0 */
BEES_IMPORT(flow_limit) int32_t bees_flow_limit(bees_handle flow, enum bees_resource resource, int64_t most); /* 0 */
BEES_IMPORT(flow_end) int32_t bees_flow_end(void); /* 0 */

#endif
