/* Definitions of event sources, triggers and events as commands take them: from files and from options.
 * Thread: main. */
#pragma once

struct cli;
struct json_object;

/* The document in the file that an option names; *ret stays as it is without the option. CLI_OK, or an exit
 * status, complained about. */
int definition_file(const struct cli *cli, const char *option, struct json_object **ret);

/* Completes an event source in place: an object with a class; name (NULL: none) is set where it has none, and
 * parameters are an object. CLI_OK, or CLI_USAGE, complained about. */
int definition_source(const struct cli *cli, const char *name, struct json_object *source);
/* {"name":"http","class":"HTTPEventSource","parameters":{}}, owned. */
struct json_object *definition_http_source(void);
/* "http", "Redis" and so on as the name of a class; what is none of those, as it is. */
const char *definition_class(const char *text);

/* A trigger with all members that the API asks for: id, condition, action, context, activation_events,
 * transient; condition and action given as text become {"name": text}, activation events given as text
 * {"type": text}. Changes it in place. CLI_OK, or CLI_USAGE, complained about. */
int definition_trigger(const struct cli *cli, struct json_object *trigger);

/* JSON text as a value; what is no JSON is taken for a text. NULL when memory ran out or for null. */
struct json_object *definition_value(const char *text);
