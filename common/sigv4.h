/* Signing requests to AWS services with Signature Version 4, by headers.
 *
 * As "Create a signed AWS API request" in the AWS Identity and Access Management User Guide has it
 * (HMAC-SHA256): canonical request, string to sign, derived key. Canonicalisation:
 * - path: as it is sent; "." and ".." segments and repeated slashes are removed, then every byte but
 * unreserved ones (RFC 3986, 2.3) and "/" is percent-encoded, so that what was encoded is encoded twice; with
 * `is_s3` it is taken as it is sent, which S3 alone wants;
 * - query: as it is sent; names and values are decoded, encoded again in the one canonical way, and sorted by
 *   their bytes, by name and then by value. "+" means itself: write a space as %20;
 * - headers: all that are given, host, x-amz-date and x-amz-security-token; names in lower case, values
 * without outer blanks and with inner runs of blanks made one, repeated names joined by commas in their
 * order.
 *
 * libcurl's CURLOPT_AWS_SIGV4 is not used: that of Debian 12 (7.88.1) takes path and query into the signature
 * as they stand. Measured against botocore: it is right for plain ones, also with a session token that is
 * given as a header, and wrong for a query that is not in canonical order, a parameter without "=", and a
 * path with percent-encoded characters. Thread: any. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buffer.h"

struct error;

struct sigv4_credentials {
    const char *access_key_id;
    const char *secret_access_key;
    const char *session_token; /* NULL: none */
};

/* The signing key of the last request, which most requests of a day have in common: for the maker of several,
 * one at a time. Begins zeroed. */
struct sigv4_key {
    struct buffer of; /* date, region, service and secret */
    unsigned char bytes[32];
};

struct sigv4_header {
    const char *name;
    const char *value;
};

struct sigv4_request {
    const char *method;
    const char *host;  /* as in the Host header: with the port when it is not the scheme's own */
    const char *path;  /* "" is "/" */
    const char *query; /* without "?"; NULL: none */
    /* Further headers to be signed; none of those that signing adds. */
    const struct sigv4_header *headers;
    size_t n_headers;
    const void *body;
    size_t body_len;
    bool is_s3;
    struct sigv4_key *key; /* NULL: derived for this request alone */
};

#define SIGV4_DATE_MAX 17 /* 20150830T123600Z */
#define SIGV4_HEX_MAX 65

/* What is to be sent with the request. */
struct sigv4_signature {
    char date[SIGV4_DATE_MAX];          /* X-Amz-Date */
    char content_sha256[SIGV4_HEX_MAX]; /* of the body; X-Amz-Content-Sha256 when is_s3 (is signed then) */
    char signature[SIGV4_HEX_MAX];
    struct buffer authorization; /* Authorization; buffer_text() */
};

/* Signs the request as of unix_s. X-Amz-Security-Token must be sent as it is in the credentials. Errors:
 * ERROR_INVALID for control characters in what is to be signed, naming the part and never a value of a
 * credential; ERROR_MEMORY. */
int sigv4_sign(const struct sigv4_credentials *credentials, const char *region, const char *service,
               const struct sigv4_request *request, uint64_t unix_s, struct sigv4_signature *ret_signature,
               struct error *err);
/* Clears the secret, too. */
void sigv4_key_done(struct sigv4_key *key);
void sigv4_done(struct sigv4_signature *signature);
