/* Credentials for AWS services, from the first of these that there is:
 *
 *   given         parameters of the event source or action; never refreshed
 *   environment   AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN
 *   container     AWS_CONTAINER_CREDENTIALS_RELATIVE_URI (at 169.254.170.2) or _FULL_URI (https, or http to a
 *                 loopback or the container agents' addresses), with AWS_CONTAINER_AUTHORIZATION_TOKEN or the
 *                 contents of the file AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE, read each time
 *   instance      the role of the EC2 instance, by IMDSv2 (a session token by PUT first), at
 *                 AWS_EC2_METADATA_SERVICE_ENDPOINT, by default 169.254.169.254; not with
 *                 AWS_EC2_METADATA_DISABLED=true
 *
 * as "Standardized credential providers" in the AWS SDKs and Tools Reference Guide has them. Those of the
 * latter two expire: they are fetched anew REFRESH (5 minutes) before, while the old ones still serve, and
 * after a failure again with a back-off of 1 to 60 s. Everything happens on the owner's fetch pool; nothing
 * waits. Credentials are in no message, and are wiped when they are replaced. Thread: the pool's. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/sigv4.h"

struct aws_credentials;
struct error;
struct fetch_pool;

/* given: copied; NULL, or without an access key id: none. pool: borrowed, outlives this. Errors:
 * ERROR_MEMORY, ERROR_INVALID (half of a pair is missing). */
int aws_credentials_new(const struct sigv4_credentials *given, struct fetch_pool *pool,
                        struct aws_credentials **ret_credentials, struct error *err);
void aws_credentials_free(struct aws_credentials *credentials); /* NULL is fine */

/* 0: *ret_credentials borrows them until the next call on this or the pool; AWS_CREDENTIALS_COMING: they are
 * being fetched, and `ready` will be called. Errors: ERROR_UNAVAILABLE (the fetch has failed; ask again
 * later), ERROR_REFUSED (there are none, and none can come): what was tried, and why it failed. now_ns:
 * clock_now_ns; unix_ns: clock_unix_ns. */
enum { AWS_CREDENTIALS_COMING = 1 };
int aws_credentials_get(struct aws_credentials *credentials, uint64_t now_ns, uint64_t unix_ns,
                        struct sigv4_credentials *ret_credentials, struct error *err);

/* Called after each fetch, whether it has succeeded or not. */
void aws_credentials_on_ready(struct aws_credentials *credentials, void (*ready)(void *data), void *data);

/* The service says that these are expired or unknown. True: others are being fetched (a `ready` will come);
 * false: there are no others to be had, or those in hand are new already. */
bool aws_credentials_expired(struct aws_credentials *credentials, uint64_t now_ns);

/* "given", "environment", "container", "instance". */
const char *aws_credentials_provider(const struct aws_credentials *credentials);
