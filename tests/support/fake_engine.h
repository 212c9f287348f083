/* A Docker engine that says what a test tells it to, request by request, on a Unix socket, driven by the
 * test's own loop: for what a real one cannot be made to say. What goes wrong fails the test (cmocka).
 * Thread: main. */
#pragma once

#include <stddef.h>

#include "worker/local/engine.h"

struct arena;
struct loop;

struct fake_engine {
    struct engine engine; /* that asks it */
    struct loop *loop;
    struct arena *arena;
    int listener;
    char folder[40];
    char socket[64];
};

void fake_engine_open(struct fake_engine *fake);
void fake_engine_close(struct fake_engine *fake);
/* Runs the loop until a request comes, whose first line must begin so, and answers it; of the body only
 * `sent` bytes follow before the connection is closed. status 0: hangs up instead. */
void fake_engine_answer(struct fake_engine *fake, const char *request, unsigned status, const char *body,
                        size_t len, size_t sent);
/* The same with the whole of a text. */
void fake_engine_say(struct fake_engine *fake, const char *request, unsigned status, const char *body);
/* Waits for a request as above, and never answers; the connection (close). */
int fake_engine_ignore(struct fake_engine *fake, const char *request);
/* Runs the loop until *done is not 0. */
void fake_engine_until(struct fake_engine *fake, const unsigned *done);
