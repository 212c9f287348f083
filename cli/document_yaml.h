/* The YAML part of document.c. */
#pragma once

#include <stddef.h>

struct error;
struct json_object;

/* As document_parse, for text that is YAML. */
int document_yaml(const char *name, const char *text, size_t len, struct json_object **ret_value,
                  struct error *err);
