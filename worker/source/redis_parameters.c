#include "worker/source/redis_parameters.h"

#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "worker/source/parameter.h"

const char *const redis_parameters_known[] = {"host", "port",   "db",       "username", "password", "stream",
                                              "tls",  "tls_ca", "tls_cert", "tls_key",  "trim",     NULL};

int redis_parameters_read(const struct json_value *json, struct redis_parameters *ret_parameters,
                          struct error *err)
{
    struct redis_parameters p = {0};
    if (parameter_text(json, "host", NULL, &p.host, err) < 0 ||
        parameter_number(json, "port", 6379, 0, 65535, &p.port, err) < 0 ||
        parameter_number(json, "db", 0, 0, 1 << 20, &p.db, err) < 0 ||
        parameter_text(json, "username", "", &p.username, err) < 0 ||
        parameter_text(json, "password", "", &p.password, err) < 0 ||
        parameter_text(json, "stream", NULL, &p.stream, err) < 0 ||
        parameter_bool(json, "tls", false, &p.tls, err) < 0 ||
        parameter_text(json, "tls_ca", "", &p.tls_ca, err) < 0 ||
        parameter_text(json, "tls_cert", "", &p.tls_cert, err) < 0 ||
        parameter_text(json, "tls_key", "", &p.tls_key, err) < 0 ||
        parameter_bool(json, "trim", false, &p.trim, err) < 0) {
        redis_parameters_done(&p);
        return -1;
    }
    *ret_parameters = p;
    return 0;
}

void redis_parameters_done(struct redis_parameters *p)
{
    free(p->host);
    free(p->username);
    free(p->password);
    free(p->stream);
    free(p->tls_ca);
    free(p->tls_cert);
    free(p->tls_key);
    *p = (struct redis_parameters){0};
}

struct redis_address redis_parameters_address(const struct redis_parameters *p)
{
    return (struct redis_address){.host = p->host,
                                  .port = p->port,
                                  .db = p->db,
                                  .username = p->username,
                                  .password = p->password,
                                  .tls = p->tls,
                                  .tls_ca = p->tls_ca,
                                  .tls_cert = p->tls_cert,
                                  .tls_key = p->tls_key};
}
