/* The random choices of a test that kills, and how often it kills: TRIGGERFLOW_SEED repeats a run's choices,
 * though not the instants; TRIGGERFLOW_KILLS is the number of kills in all (200). Thread: main. */
#pragma once

#include <stdint.h>

/* Reads both, and prints them. */
void chance_read_settings(void);
unsigned chance_kills(void);
uint64_t chance_below(uint64_t n);
/* For a generator of another's own. */
uint64_t chance_seed(void);
