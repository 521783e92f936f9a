;; The guest of the relay benchmarks: adds one to a counter in the capsule, looks up its next hop in soft
;; state, and sends the capsule there.
;;
;; Memory: 0..64 inbox, 64 name of the neighbor, 80 key of the entry, 96 the next hop, 104 the counter.
(module
  (import "bees" "cap_lookup" (func $cap_lookup (param i32 i32) (result i32)))
  (import "bees" "cache_put" (func $cache_put (param i32 i32 i32 i32 i32) (result i32)))
  (import "bees" "cache_get" (func $cache_get (param i32 i32 i32 i32) (result i32)))
  (import "bees" "capsule_write" (func $capsule_write (param i32 i32 i32 i32) (result i32)))
  (import "bees" "capsule_send" (func $capsule_send (param i32 i32 i32) (result i32)))
  (memory (export "memory") 1 1)
  (global (export "bees_abi") i32 (i32.const 1))
  (global (export "bees_inbox") i32 (i32.const 0))
  (data (i32.const 64) "neighbor/next")
  (data (i32.const 80) "next hop")

  ;; Where there is a neighbor "next", it is the next hop. Other nodes only pass the flow on.
  (func (export "on_boot") (param $capsule i32)
    (local $next i32)
    (local.set $next (call $cap_lookup (i32.const 64) (i32.const 13)))
    (if (i32.gt_s (local.get $next) (i32.const 0))
      (then
        (i32.store (i32.const 96) (local.get $next))
        (drop (call $cache_put (i32.const 80) (i32.const 8) (i32.const 96) (i32.const 4) (i32.const 600000))))))

  (func (export "on_capsule") (param $capsule i32) (param $kind i32) (param $len i32) (param $from i32)
    ;; An empty payload has no counter.
    (if (i32.ge_u (local.get $len) (i32.const 8))
      (then
        (i64.store (i32.const 104) (i64.add (i64.load (i32.const 0)) (i64.const 1)))
        (drop (call $capsule_write (local.get $capsule) (i32.const 0) (i32.const 104) (i32.const 8)))))
    (if (i32.eq (call $cache_get (i32.const 80) (i32.const 8) (i32.const 96) (i32.const 4)) (i32.const 4))
      (then (drop (call $capsule_send (local.get $capsule) (i32.load (i32.const 96)) (i32.const 0))))))

  ;; The entry is kept as long as the flow runs.
  (func (export "on_expiry") (param $key_len i32) (result i32)
    (i32.const 600000)))
