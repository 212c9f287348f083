/* The conformance test for event sources: what DESIGN's promises mean for one class, tried with the real
 * worker against the class's real broker. A class plugs in a driver (source_driver.h); its program is
 *
 *     int main(int argc, char **argv) { return source_conformance(&driver, argc, argv); }
 *
 * Every case publishes events whose outcome is known (source_bed.c has the triggers), disturbs the worker,
 * the broker or what lies between them, and in the end compares all that is stored and was emitted with a
 * sequential run of the same events (reference.h): nothing lost, nothing twice, for ordered classes in order.
 * A case that cannot be for a class says skipped, and why.
 *
 * TRIGGERFLOW_KILLS (200) scales the long cases; TRIGGERFLOW_SEED repeats a run's random choices, though not
 * the instants; TRIGGERFLOW_KEEP shows all logs. An argument is a filter for the cases (cmocka). */
#pragma once

struct source_driver;

/* The exit status: 0 when all cases passed or the broker is not to be had here (then it says skipped). May be
 * called for several drivers, one after the other. */
int source_conformance(const struct source_driver *driver, int argc, char **argv);
