/* The long cases of the conformance test: the worker and its connections die while many events come. What
 * goes wrong fails the test (cmocka). Thread: main. */
#pragma once

struct source_world;

/* Lets a random while pass that often is short. */
void source_live(void);
/* Kills and broken connections at random instants, share percent of what the driver and TRIGGERFLOW_KILLS
 * say. */
void source_crash_random(struct source_world *world, const char *backend, unsigned share);
/* The worker dies at every named crash point (worker/crash.h). Returns why that cannot be, else NULL. */
const char *source_crash_points(struct source_world *world);
