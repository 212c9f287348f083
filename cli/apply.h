/* Making a stored workspace what a manifest says: first a plan, which can be shown, then its steps.
 *
 * A stored trigger carries in its member `applied` the hash of the definition that it was made from: one
 * whose hash is the same is left alone, so that its context stays. Thread: main. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct cli;
struct json_object;
struct manifest;

enum plan_kind { PLAN_ADD, PLAN_REPLACE, PLAN_DELETE };
enum plan_what { PLAN_WORKSPACE, PLAN_SOURCE, PLAN_TRIGGER, PLAN_CONTEXT };

struct plan_step {
    enum plan_kind kind;
    enum plan_what what;
    const char *name;           /* borrowed from the documents */
    struct json_object *body;   /* what is sent; borrowed, NULL for deletions */
    struct json_object *before; /* what is stored; borrowed, NULL: nothing */
};

struct plan {
    const struct manifest *manifest;
    bool exists;                   /* the workspace */
    struct json_object *workspace; /* as stored: triggers, event_sources, global_context */
    struct json_object *sources;   /* name -> stored event source */
    struct json_object *triggers;  /* id -> stored trigger */
    struct json_object *context;   /* the global context to store, or NULL */
    struct plan_step *steps;
    size_t n_steps;
    size_t unchanged;
};

/* Compares with what is stored. CLI_OK, or an exit status, complained about. The manifest's triggers get
 * their member `applied`. */
int plan_make(struct cli *cli, const struct manifest *manifest, bool prune, struct plan *ret_plan);
void plan_done(struct plan *plan);
/* Carries the steps out. */
int plan_run(struct cli *cli, const struct plan *plan);
/* Prints the steps, or with --json what they are; with_details: which members differ. */
int plan_show(const struct cli *cli, const struct plan *plan, bool done);
