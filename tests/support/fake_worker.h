/* A forkserver and workers for the tests of the supervisor, which do what their workspace's name says instead
 * of processing events. A test program that calls fake_worker_main() for the argument --forkserver can name
 * itself in TRIGGERFLOW_WORKER.
 *
 *     ok...         ready; stops when told to
 *     slow...       never ready
 *     finish...     reports a TERMINATE and exits 0
 *     fenced..., deleted..., overflow..., refused...    says so and exits
 *     crash...      dies of SIGSEGV with an event in hand, until that is remembered ARENA_POISON_DEATHS times
 *     hang...       a busy thread falls silent, once
 *     stubborn...   does not stop when told to
 *     adopt...      needs adoption; its status then shows what it was told
 *     config...     its status shows config.adopt and config.token as it got them
 *     noisy...      sends broken, stale and huge messages, then is ready
 *     trouble...    its status holds problems of every kind
 *     nofork...     the forkserver says that it cannot fork
 *     lost...       the forkserver dies before it answers, once a file named $FAKE_WORKER_DIR/lost is there
 * (which it removes) */
#pragma once

int fake_worker_main(void);
