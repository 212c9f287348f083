/* See api_trigger.h. */
#include "supervisor/api_trigger.h"

#include <microhttpd.h>

#include "supervisor/api_event.h"
#include "supervisor/http.h"

static void get_healthz(struct http_request *request)
{
    buffer_append_text(&request->answer, "{\"status\":\"ok\"}");
    http_answer(request, MHD_HTTP_OK);
}

const struct http_route *api_trigger_routes(size_t *ret_n)
{
    static const struct http_route routes[] = {
        {.method = "GET", .path = "/healthz", .handler = get_healthz, .open = true},
        {.method = "POST",
         .path = "/workspace/*/event",
         .handler = api_event_post,
         .direct = true,
         .body_max = API_EVENT_BODY_MAX},
    };
    *ret_n = sizeof routes / sizeof routes[0];
    return routes;
}
