/* See collection.h. */
#include "cli/collection.h"

#include <json-c/json.h>

#include "common/buffer.h"
#include "cli/cli.h"
#include "cli/client.h"
#include "cli/output.h"

#define IN_FLIGHT 8

struct listing {
    struct cli *cli;
    const struct collection *collection;
    struct json_object *names;
    struct json_object *found; /* array of them, in the order of their names */
};

static const char *name_of(const struct listing *listing, size_t i)
{
    return json_object_get_string(json_object_array_get_idx(listing->names, i));
}

static struct json_object *list_next(void *data, size_t i, struct buffer *ret_path)
{
    struct listing *listing = data;
    client_path(ret_path, "workspace", cli_argument(listing->cli, 0), listing->collection->path,
                name_of(listing, i), NULL);
    return NULL;
}

static int list_done(void *data, size_t i, long status, struct json_object *answer)
{
    struct listing *listing = data;
    if (status == 404) /* deleted meanwhile, or a transient trigger that has fired */
        return CLI_OK;
    if (status != 200)
        return client_refused(listing->cli, status, answer);
    json_object_array_put_idx(listing->found, i, json_object_get(output_member(answer, name_of(listing, i))));
    return CLI_OK;
}

static int list_whole(struct listing *listing)
{
    listing->found = json_object_new_array();
    struct client_calls calls = {.n = output_length(listing->names),
                                 .in_flight = IN_FLIGHT,
                                 .method = "GET",
                                 .next = list_next,
                                 .done = list_done,
                                 .data = listing};
    int code = listing->found ? client_many(listing->cli, &calls) : cli_fail_memory();
    if (code == CLI_OK)
        code = listing->collection->print(listing->cli, listing->found);
    json_object_put(listing->found);
    return code;
}

int collection_list(struct cli *cli, const struct collection *collection)
{
    BUFFER_AUTO path = BUFFER_INIT;
    struct listing listing = {.cli = cli, .collection = collection};
    client_path(&path, "workspace", cli_argument(cli, 0), collection->path, NULL);
    int code = client_call(cli, "GET", buffer_text(&path), NULL, &listing.names);
    if (code != CLI_OK)
        return code;
    if (cli_flag(cli, "names"))
        for (size_t i = 0; i < output_length(listing.names); i++)
            output_line(name_of(&listing, i));
    else
        code = list_whole(&listing);
    json_object_put(listing.names);
    return code;
}

int collection_show(struct cli *cli, const struct collection *collection)
{
    BUFFER_AUTO path = BUFFER_INIT;
    struct json_object *answer;
    const char *name = cli_argument(cli, 1);
    client_path(&path, "workspace", cli_argument(cli, 0), collection->path, name, NULL);
    int code = client_call(cli, "GET", buffer_text(&path), NULL, &answer);
    if (code != CLI_OK)
        return code;
    if (!cli_flag(cli, "secrets"))
        output_redact(answer);
    code = output_document(cli, output_member(answer, name));
    json_object_put(answer);
    return code;
}
