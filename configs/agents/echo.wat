;; A sample agent in WebAssembly text. It finds the "content" of the message it is given, whatever JSON value
;; that is, and answers INFORM {"echo": <the content>, "bytes": <its length>, "checksum": <FNV-1a, 32 bits>}.
;; The interface is described in docs/agents.md.
(module
  (import "caxton" "send_message" (func $send_message (param i32 i32) (result i32)))
  (import "caxton" "console_log" (func $console_log (param i32 i32)))

  (memory (export "memory") 4)
  (data (i32.const 16) "\"content\":")
  (data (i32.const 64) "{\"performative\":\"inform\",\"content\":{\"echo\":")
  (data (i32.const 128) ",\"bytes\":")
  (data (i32.const 144) ",\"checksum\":")
  (data (i32.const 160) "}}")
  (data (i32.const 176) "[\"echo\"]")
  (data (i32.const 192) "echoed a message")

  ;; Memory from here on is handed out by caxton_alloc and given back all at once after each message.
  (global $heap (mut i32) (i32.const 1024))
  (global $out (mut i32) (i32.const 0))

  (func $alloc (export "caxton_alloc") (param $size i32) (result i32)
    (local $start i32) (local $pages i32)
    (local.set $start (global.get $heap))
    (global.set $heap
      (i32.and (i32.add (i32.add (local.get $start) (local.get $size)) (i32.const 7)) (i32.const -8)))
    (local.set $pages (i32.shr_u (i32.add (global.get $heap) (i32.const 65535)) (i32.const 16)))
    (if (i32.gt_u (local.get $pages) (memory.size))
      (then
        (if (i32.eq (memory.grow (i32.sub (local.get $pages) (memory.size))) (i32.const -1))
          (then (return (i32.const 0))))))
    (local.get $start))

  (func (export "agent_init") (result i32) (i32.const 0))

  (func (export "get_capabilities") (param $pointer i32) (param $length i32) (result i32)
    (memory.copy (local.get $pointer) (i32.const 176) (i32.const 8))
    (global.set $heap (i32.const 1024))
    (i32.const 8))

  ;; The position after the string that opens at $at.
  (func $skip_string (param $at i32) (param $end i32) (result i32)
    (local $byte i32)
    (local.set $at (i32.add (local.get $at) (i32.const 1)))
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $at) (local.get $end)))
        (local.set $byte (i32.load8_u (local.get $at)))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br_if $done (i32.eq (local.get $byte) (i32.const 34)))          ;; "
        (if (i32.eq (local.get $byte) (i32.const 92))                    ;; \ takes the next byte along
          (then (local.set $at (i32.add (local.get $at) (i32.const 1)))))
        (br $next)))
    (local.get $at))

  ;; The position after the JSON value that begins at $at: where a comma or a closing bracket at its level is.
  (func $skip_value (param $at i32) (param $end i32) (result i32)
    (local $depth i32) (local $byte i32)
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $at) (local.get $end)))
        (local.set $byte (i32.load8_u (local.get $at)))
        (if (i32.eq (local.get $byte) (i32.const 34))
          (then
            (local.set $at (call $skip_string (local.get $at) (local.get $end)))
            (br $next)))
        (if (i32.or (i32.eq (local.get $byte) (i32.const 123)) (i32.eq (local.get $byte) (i32.const 91)))  ;; { [
          (then (local.set $depth (i32.add (local.get $depth) (i32.const 1)))))
        (if (i32.or (i32.eq (local.get $byte) (i32.const 125)) (i32.eq (local.get $byte) (i32.const 93)))  ;; } ]
          (then
            (br_if $done (i32.eqz (local.get $depth)))
            (local.set $depth (i32.sub (local.get $depth) (i32.const 1)))))
        (br_if $done (i32.and (i32.eq (local.get $byte) (i32.const 44)) (i32.eqz (local.get $depth))))     ;; ,
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br $next)))
    (local.get $at))

  ;; Whether the bytes at $at are the key "content" with its colon.
  (func $is_content (param $at i32) (param $end i32) (result i32)
    (local $offset i32)
    (if (i32.gt_u (i32.add (local.get $at) (i32.const 10)) (local.get $end)) (then (return (i32.const 0))))
    (loop $next
      (if (i32.ne
            (i32.load8_u (i32.add (local.get $at) (local.get $offset)))
            (i32.load8_u (i32.add (i32.const 16) (local.get $offset))))
        (then (return (i32.const 0))))
      (local.set $offset (i32.add (local.get $offset) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $offset) (i32.const 10))))
    (i32.const 1))

  ;; Where the value of the top-level key "content" begins; 0 when there is none.
  (func $find_content (param $at i32) (param $end i32) (result i32)
    (local.set $at (i32.add (local.get $at) (i32.const 1)))              ;; past the opening brace
    (block $none
      (loop $next
        (br_if $none (i32.ge_u (local.get $at) (local.get $end)))
        (if (call $is_content (local.get $at) (local.get $end))
          (then (return (i32.add (local.get $at) (i32.const 10)))))
        (local.set $at (call $skip_string (local.get $at) (local.get $end)))   ;; another key
        (local.set $at (call $skip_value (local.get $at) (local.get $end)))    ;; its colon and value
        (local.set $at (i32.add (local.get $at) (i32.const 1)))                ;; the comma
        (br $next)))
    (i32.const 0))

  (func $checksum (param $at i32) (param $end i32) (result i32)
    (local $hash i32)
    (local.set $hash (i32.const 0x811c9dc5))
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $at) (local.get $end)))
        (local.set $hash
          (i32.mul
            (i32.xor (local.get $hash) (i32.load8_u (local.get $at)))
            (i32.const 0x01000193)))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br $next)))
    (local.get $hash))

  (func $put (param $from i32) (param $length i32)
    (memory.copy (global.get $out) (local.get $from) (local.get $length))
    (global.set $out (i32.add (global.get $out) (local.get $length))))

  (func $put_number (param $value i32)
    (if (i32.ge_u (local.get $value) (i32.const 10))
      (then (call $put_number (i32.div_u (local.get $value) (i32.const 10)))))
    (i32.store8 (global.get $out)
      (i32.add (i32.const 48) (i32.rem_u (local.get $value) (i32.const 10))))
    (global.set $out (i32.add (global.get $out) (i32.const 1))))

  (func (export "handle_message") (param $pointer i32) (param $length i32) (result i32)
    (local $end i32) (local $value i32) (local $size i32) (local $answer i32) (local $status i32)
    (local.set $end (i32.add (local.get $pointer) (local.get $length)))
    (local.set $value (call $find_content (local.get $pointer) (local.get $end)))
    (if (i32.eqz (local.get $value)) (then (return (i32.const 1))))
    (local.set $size
      (i32.sub (call $skip_value (local.get $value) (local.get $end)) (local.get $value)))
    (local.set $answer (call $alloc (i32.add (local.get $size) (i32.const 128))))
    (if (i32.eqz (local.get $answer)) (then (return (i32.const 2))))
    (global.set $out (local.get $answer))
    (call $put (i32.const 64) (i32.const 43))
    (call $put (local.get $value) (local.get $size))
    (call $put (i32.const 128) (i32.const 9))
    (call $put_number (local.get $size))
    (call $put (i32.const 144) (i32.const 12))
    (call $put_number (call $checksum (local.get $value) (i32.add (local.get $value) (local.get $size))))
    (call $put (i32.const 160) (i32.const 2))
    (call $console_log (i32.const 192) (i32.const 16))
    (local.set $status
      (call $send_message (local.get $answer) (i32.sub (global.get $out) (local.get $answer))))
    (global.set $heap (i32.const 1024))
    (local.get $status)))
