/* See definition.h. */
#include "cli/definition.h"

#include <json-c/json.h>
#include <string.h>
#include <strings.h>

#include "common/error.h"
#include "cli/cli.h"
#include "cli/document.h"
#include "cli/manifest.h"
#include "cli/output.h"

int definition_file(const struct cli *cli, const char *option, struct json_object **ret)
{
    struct error err;
    const char *path = cli_value(cli, option);
    if (!path || document_read(path, ret, &err) == 0)
        return CLI_OK;
    return cli_fail_error(err.code == ERROR_SYSTEM ? CLI_FAILED : CLI_USAGE, &err);
}

const char *definition_class(const char *text)
{
    static const char *const names[][2] = {
        {"http", "HTTPEventSource"},         {"redis", "RedisEventSource"}, {"kafka", "KafkaEventSource"},
        {"rabbitmq", "RabbitMQEventSource"}, {"sqs", "SQSEventSource"},
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcasecmp(text, names[i][0]) == 0)
            return names[i][1];
    return text;
}

int definition_source(const struct cli *cli, const char *name, struct json_object *source)
{
    struct error err;
    if (json_object_is_type(source, json_type_object) && name && *output_text(source, "name") == '\0')
        json_object_object_add(source, "name", json_object_new_string(name));
    if (manifest_source(source, &err) < 0)
        return cli_usage(cli, "%s", err.message);
    return CLI_OK;
}

struct json_object *definition_http_source(void)
{
    struct json_object *source = json_object_new_object();
    json_object_object_add(source, "name", json_object_new_string("http"));
    json_object_object_add(source, "class", json_object_new_string("HTTPEventSource"));
    json_object_object_add(source, "parameters", json_object_new_object());
    return source;
}

int definition_trigger(const struct cli *cli, struct json_object *trigger)
{
    struct error err;
    if (manifest_trigger(trigger, &err) < 0)
        return cli_usage(cli, "%s", err.message);
    return CLI_OK;
}

struct json_object *definition_value(const char *text)
{
    struct json_object *value = NULL;
    if (document_parse("value.json", text, strlen(text), &value, NULL) == 0)
        return value;
    return json_object_new_string(text);
}
