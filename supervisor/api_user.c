/* Calls of the trigger API about its users; for the operator. See api_call.h. */
#include <ctype.h>
#include <microhttpd.h>
#include <string.h>

#include "common/error.h"
#include "common/json.h"
#include "supervisor/api_call.h"
#include "supervisor/api_trigger.h"
#include "supervisor/auth.h"

/* What was changed holds from the next request on. */
static bool refresh(struct api_call *call)
{
    struct error err;
    if (auth_refresh(call->api->auth, call->storage, false, &err) == 0)
        return true;
    api_fail_error(call, &err);
    return false;
}

void api_user_list(struct api_call *call)
{
    struct buffer *out = &call->request->answer;
    if (!refresh(call))
        return;
    buffer_append_text(out, "{\"users\":");
    auth_write_users(call->api->auth, out);
    buffer_append_char(out, '}');
    api_answer(call, MHD_HTTP_OK);
}

static bool read_digest(struct api_call *call, char ret_digest[AUTH_DIGEST_LEN + 1])
{
    static const char *const members[] = {"digest", NULL};
    struct json_value root, value;
    if (!api_body(call, &root))
        return false;
    bool fine = api_has_exactly(&root, members) && json_member(&root, members[0], &value) &&
                value.type == JSON_STRING && !value.escaped && value.len == AUTH_DIGEST_LEN;
    for (size_t i = 0; fine && i < AUTH_DIGEST_LEN; i++) {
        fine = isxdigit((unsigned char)value.text[i]) != 0;
        ret_digest[i] = (char)tolower((unsigned char)value.text[i]);
    }
    ret_digest[AUTH_DIGEST_LEN] = '\0';
    if (!fine)
        api_fail(call, MHD_HTTP_BAD_REQUEST, "body: not exactly digest, a text of %d hex digits",
                 AUTH_DIGEST_LEN);
    return fine;
}

void api_user_put(struct api_call *call)
{
    const char *user = call->request->segment;
    char digest[AUTH_DIGEST_LEN + 1];
    struct error err;
    if (!read_digest(call, digest))
        return;
    if (!auth_name_valid(user)) {
        api_fail(call, MHD_HTTP_BAD_REQUEST,
                 "a user's name is UTF-8 without colons and control characters, and not " AUTH_OPERATOR);
        return;
    }
    if (!refresh(call))
        return;
    bool known = auth_knows(call->api->auth, user);
    if (call->storage->type->user_put(call->storage, user, digest, &err) < 0) {
        api_fail_error(call, &err);
        return;
    }
    if (refresh(call))
        api_answer_message(call, known ? MHD_HTTP_OK : MHD_HTTP_CREATED, "Stored user %s", user);
}

void api_user_delete(struct api_call *call)
{
    const char *user = call->request->segment;
    struct error err;
    int result = call->storage->type->user_put(call->storage, user, NULL, &err);
    if (result < 0)
        api_fail_error(call, &err);
    else if (result == STORAGE_ABSENT)
        api_fail(call, MHD_HTTP_NOT_FOUND, "User %s not found", user);
    else if (refresh(call))
        api_answer_message(call, MHD_HTTP_OK, "Deleted user %s", user);
}
