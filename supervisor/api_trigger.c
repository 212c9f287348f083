/* See api_trigger.h: the routes, and what belongs to the API as a whole. */
#include "supervisor/api_trigger.h"

#include <microhttpd.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/config.h"
#include "common/error.h"
#include "common/log.h"
#include "supervisor/api_event.h"
#include "supervisor/auth.h"
#include "supervisor/checker.h"
#include "supervisor/http.h"
#include "supervisor/openapi.h"

/* ---- Users ---- */

static void refresh_users(struct api_job *job, struct storage *storage, const struct error *no_storage)
{
    struct api_trigger *api =
        (struct api_trigger *)(void *)((char *)job - offsetof(struct api_trigger, refresh));
    struct error err = *no_storage;
    if (!storage || auth_refresh(api->auth, storage, api->create_admin, &err) < 0)
        log_debug("users", LOG_STR("error", err.message), LOG_STR("then", "read again soon"));
    atomic_store_explicit(&api->refreshing, false, memory_order_release); /* the job may be posted again */
}

static void refresh_when_due(struct api_trigger *api)
{
    /* acquire: the job's last run is over */
    if (!auth_due(api->auth, clock_now_ns()) ||
        atomic_exchange_explicit(&api->refreshing, true, memory_order_acquire))
        return;
    if (api_pool_post(api->pool, &api->refresh, false) != 0)
        atomic_store_explicit(&api->refreshing, false, memory_order_release);
}

unsigned api_trigger_authorise(void *context, const char *user, const char *password, bool loopback,
                               const char **ret_error)
{
    const struct api_trigger *api = context;
    return auth_check(api->auth, user, password, loopback, ret_error);
}

/* ---- Routes ---- */

static void get_healthz(struct http_request *request)
{
    buffer_append_text(&request->answer, "{\"status\":\"ok\"}");
    http_answer(request, MHD_HTTP_OK);
}

static void get_openapi(struct http_request *request)
{
    size_t len;
    const char *text = openapi_document(&len);
    buffer_append(&request->answer, text, len);
    http_answer(request, MHD_HTTP_OK);
}

/* Method, path, first step, flags, largest body (0: HTTP_BODY_MAX). */
#define CALLS(X)                                                                                   \
    X("GET", "/workspace", api_workspace_list, 0, 0)                                               \
    X("POST", "/workspace", api_workspace_create, API_JSON | API_CHECK, API_BODY_MAX)              \
    X("GET", "/workspace/*", api_workspace_show, 0, 0)                                             \
    X("DELETE", "/workspace/*", api_workspace_delete, 0, 0)                                        \
    X("GET", "/workspace/*/status", api_workspace_status, 0, 0)                                    \
    X("POST", "/workspace/*/pause", api_pause, 0, 0)                                               \
    X("POST", "/workspace/*/resume", api_resume, 0, 0)                                             \
    X("PUT", "/workspace/*/global_context", api_global_context_put, API_JSON, API_BODY_MAX)        \
    X("GET", "/workspace/*/eventsource", api_source_list, 0, 0)                                    \
    X("POST", "/workspace/*/eventsource", api_source_add, API_JSON | API_CHECK, 0)                 \
    X("GET", "/workspace/*/eventsource/*", api_source_get, 0, 0)                                   \
    X("PUT", "/workspace/*/eventsource/*", api_source_put, API_JSON | API_CHECK, 0)                \
    X("DELETE", "/workspace/*/eventsource/*", api_source_delete, 0, 0)                             \
    X("GET", "/workspace/*/trigger", api_trigger_list, 0, 0)                                       \
    X("POST", "/workspace/*/trigger", api_trigger_add, API_JSON | API_CHECK, API_BODY_MAX)         \
    X("GET", "/workspace/*/trigger/*", api_trigger_get, 0, 0)                                      \
    X("PUT", "/workspace/*/trigger/*", api_trigger_put, API_JSON | API_CHECK, API_BODY_MAX)        \
    X("PATCH", "/workspace/*/trigger/*", api_trigger_patch, API_JSON, 0)                           \
    X("DELETE", "/workspace/*/trigger/*", api_trigger_delete, 0, 0)                                \
    X("POST", "/workspace/*/trigger/*/test", api_trigger_test, API_JSON | API_CHECK, API_BODY_MAX) \
    X("GET", "/workspace/*/trigger/*/decision", api_decisions, 0, 0)                               \
    X("GET", "/workspace/*/decision", api_decisions, 0, 0)                                         \
    X("POST", "/workspace/*/timeout", api_timeout, API_JSON | API_CHECK, API_BODY_MAX)             \
    X("GET", "/workspace/*/dead-letter", api_letter_list, 0, 0)                                    \
    X("GET", "/workspace/*/dead-letter/*", api_letter_get, 0, 0)                                   \
    X("POST", "/workspace/*/dead-letter/redrive", api_letter_redrive, API_JSON, API_BODY_MAX)      \
    X("POST", "/workspace/*/dead-letter/drop", api_letter_drop, API_JSON, API_BODY_MAX)            \
    X("GET", "/user", api_user_list, API_OPERATOR, 0)                                              \
    X("PUT", "/user/*", api_user_put, API_JSON | API_OPERATOR, 0)                                  \
    X("DELETE", "/user/*", api_user_delete, API_OPERATOR, 0)

#define ROUTE(m, p, step, flags, max) \
    {.method = (m), .path = (p), .handler = api_dispatch, .direct = true, .body_max = (max)},
#define STEP(m, p, step, flags, max) {step, flags},

/* The calls first, in the same order as their steps. */
static const struct http_route routes[] = {
    CALLS(ROUTE){.method = "GET", .path = "/healthz", .handler = get_healthz, .open = true},
    {.method = "POST",
     .path = "/workspace/*/event",
     .handler = api_event_post,
     .direct = true,
     .body_max = API_EVENT_BODY_MAX},
    {.method = "GET", .path = "/openapi.json", .handler = get_openapi, .open = true, .direct = true},
};

static const struct {
    api_step step;
    unsigned flags;
} steps[] = {CALLS(STEP)};

const struct http_route *api_trigger_routes(size_t *ret_n)
{
    *ret_n = sizeof routes / sizeof routes[0];
    return routes;
}

api_step api_trigger_step(const struct http_route *route, unsigned *ret_flags)
{
    size_t i = (size_t)(route - routes);
    *ret_flags = steps[i].flags;
    return steps[i].step;
}

/* ---- Start and end ---- */

int api_trigger_start(struct api_trigger *api, const char *worker_path, struct error *err)
{
    TAILQ_INIT(&api->waiting);
    for (int i = 0; i < API_LOCKS; i++)
        pthread_mutex_init(&api->locks[i], NULL);
    api->refresh.run = refresh_users;
    api->create_admin = getenv("CREATE_ADMIN_USER") != NULL;
    if (checker_new(worker_path, &api->checker, err) < 0 ||
        auth_new(api->config->run_directory, &api->auth, err) < 0 ||
        api_pool_new(api->config, "triggerflow-api", API_THREADS, &api->pool, err) < 0 ||
        api_pool_new(api->config, "triggerflow-api-check", API_CHECK_THREADS, &api->check_pool, err) < 0)
        return -1;
    refresh_when_due(api);
    return 0;
}

void api_trigger_tick(struct api_trigger *api)
{
    refresh_when_due(api);
}

int api_trigger_configure(struct api_trigger *api, const struct config *config, struct error *err)
{
    if (api_pool_configure(api->pool, config, err) < 0)
        return -1;
    return api_pool_configure(api->check_pool, config, err);
}

int api_trigger_stop(struct api_trigger *api)
{
    api_pool_stop(api->check_pool);
    if (api_pool_free(api->pool) != 0 || api_pool_free(api->check_pool) != 0)
        return 1;
    api->pool = api->check_pool = NULL;
    return 0;
}

void api_trigger_abort(struct api_trigger *api)
{
    if (api->refresh.run)
        api_abort_waiting(api);
}

void api_trigger_done(struct api_trigger *api)
{
    checker_free(api->checker);
    auth_free(api->auth);
    api->checker = NULL;
    api->auth = NULL;
}
