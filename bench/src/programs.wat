;; The programs of seed 001's table: Fib, by recursion, and Sort, a bubble sort of numbers that fall.
;;
;; Memory: 0..64 inbox, from 1024 on the numbers.
(module
  (import "bees" "session_reply" (func $session_reply (param i32 i32 i32) (result i32)))
  (memory (export "memory") 1 1)
  (global (export "bees_abi") i32 (i32.const 1))
  (global (export "bees_inbox") i32 (i32.const 0))

  (func $fib (export "fib") (param $n i32) (result i32)
    (if (result i32) (i32.lt_s (local.get $n) (i32.const 2))
      (then (local.get $n))
      (else (i32.add
        (call $fib (i32.sub (local.get $n) (i32.const 1)))
        (call $fib (i32.sub (local.get $n) (i32.const 2)))))))

  ;; Gives how many neighbors are in order afterwards.
  (func $sort (export "sort") (param $n i32) (result i32)
    (local $i i32) (local $at i32) (local $end i32) (local $a i32) (local $b i32) (local $good i32)
    (loop $fill
      (i32.store (i32.add (i32.const 1024) (i32.shl (local.get $i) (i32.const 2)))
        (i32.sub (local.get $n) (local.get $i)))
      (br_if $fill (i32.lt_s (local.tee $i (i32.add (local.get $i) (i32.const 1))) (local.get $n))))
    (local.set $end (i32.add (i32.const 1024) (i32.shl (i32.sub (local.get $n) (i32.const 1)) (i32.const 2))))
    (loop $pass
      (local.set $at (i32.const 1024))
      (loop $step
        (local.set $a (i32.load (local.get $at)))
        (local.set $b (i32.load offset=4 (local.get $at)))
        (if (i32.gt_s (local.get $a) (local.get $b))
          (then
            (i32.store (local.get $at) (local.get $b))
            (i32.store offset=4 (local.get $at) (local.get $a))))
        (br_if $step (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 4))) (local.get $end))))
      (local.set $end (i32.sub (local.get $end) (i32.const 4)))
      (br_if $pass (i32.gt_u (local.get $end) (i32.const 1024))))
    (local.set $i (i32.const 1))
    (loop $check
      (local.set $at (i32.add (i32.const 1020) (i32.shl (local.get $i) (i32.const 2))))
      (local.set $good (i32.add (local.get $good)
        (i32.le_s (i32.load (local.get $at)) (i32.load offset=4 (local.get $at)))))
      (br_if $check (i32.lt_s (local.tee $i (i32.add (local.get $i) (i32.const 1))) (local.get $n))))
    (local.get $good))

  (func (export "on_session") (param $c i32) (param $session i32) (param $what i32) (param $len i32)
    (if (i32.ne (local.get $what) (i32.const 1)) (then (return)))
    (i32.store (i32.const 512)
      (if (result i32) (i32.eq (i32.load8_u (i32.const 0)) (i32.const 102))
        (then (call $fib (i32.load (i32.const 4))))
        (else (call $sort (i32.load (i32.const 4))))))
    (drop (call $session_reply (local.get $session) (i32.const 512) (i32.const 4)))))
