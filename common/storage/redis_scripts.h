/* The Lua scripts of the Redis back end, and how they are sent. Each one makes all its checks before its
 * first write, because Redis does not undo what a failing script has written. Thread: one at a time. */
#pragma once

#include "common/storage/redis_internal.h"

#define SCRIPT_N_KEYS (1 + STORAGE_SETS + 2) /* the workspaces, the sets, the events and their ids */
#define SCRIPT_ARG (3 + SCRIPT_N_KEYS)       /* where ARGV[1] stands: EVALSHA sha n keys... */
#define SCRIPT_ARGS_MAX 1000000              /* of one command: Redis takes 1,048,576 */
#define SCRIPT_FORMAT_TEXT "1"               /* STORAGE_FORMAT */

struct redis_script_keys {
    char sets[STORAGE_SETS][KEY_MAX];
    char log[2][KEY_MAX];
};

/* Fills argv[2] up to SCRIPT_ARG with their lengths; keys own the text. */
int redis_script_keys(struct redis_script_keys *keys, const char *workspace, const char **argv,
                      size_t *lengths, struct error *err);

/* Room for argc arguments and n_numbers numbers in s->argv; then redis_script_arg appends one (text is
 * borrowed, NULL is the empty text), redis_script_arg_number one that the storage keeps. `what` is for the
 * message when memory runs out. After the run, redis_script_release gives back what is large. */
int redis_script_reserve(struct redis_storage *s, size_t argc, size_t n_numbers, const char *what,
                         struct error *err);
void redis_script_arg(struct redis_storage *s, const char *text, size_t len);
void redis_script_arg_number(struct redis_storage *s, uint64_t number);
void redis_script_release(struct redis_storage *s);

/* Runs a script; argv[0] and argv[1] (with their lengths) are filled here. The reply is an array that starts
 * with a word. A server that has forgotten the script (restart, SCRIPT FLUSH) is given it again. */
int redis_script_run(struct redis_storage *s, enum redis_script script, const char *what, size_t argc,
                     const char **argv, size_t *lengths, redisReply **ret_reply, struct error *err);

/* Whether the reply is this word with so many details. */
bool redis_script_says(const redisReply *reply, const char *word, size_t details);

/* What all scripts may refuse: fills err, returns -1. */
int redis_script_refused(struct redis_storage *s, const char *workspace, const redisReply *reply,
                         struct error *err);
