#include "common/sigv4.h"

#include <ctype.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "common/error.h"

#define ALGORITHM "AWS4-HMAC-SHA256"
#define MAX_HEADERS 32
#define MAX_PARAMETERS 256
#define HASH_BYTES 32

static const char hex_digits[] = "0123456789ABCDEF";

static void write_hex(const unsigned char bytes[HASH_BYTES], char ret_hex[SIGV4_HEX_MAX])
{
    static const char lower[] = "0123456789abcdef";
    for (size_t i = 0; i < HASH_BYTES; i++) {
        ret_hex[2 * i] = lower[bytes[i] >> 4];
        ret_hex[2 * i + 1] = lower[bytes[i] & 15];
    }
    ret_hex[2 * HASH_BYTES] = '\0';
}

static bool hash_hex(const void *data, size_t len, char ret_hex[SIGV4_HEX_MAX])
{
    unsigned char digest[EVP_MAX_MD_SIZE] = {0};
    bool done = EVP_Digest(len ? data : "", len, digest, NULL, EVP_sha256(), NULL) == 1;
    write_hex(digest, ret_hex);
    return done;
}

static bool hmac(const unsigned char *key, size_t key_len, const char *text, size_t len,
                 unsigned char ret_digest[HASH_BYTES])
{
    unsigned char digest[EVP_MAX_MD_SIZE] = {0};
    unsigned digest_len = 0;
    bool done =
        HMAC(EVP_sha256(), key, (int)key_len, (const unsigned char *)text, len, digest, &digest_len) &&
        digest_len == HASH_BYTES;
    memcpy(ret_digest, digest, HASH_BYTES);
    OPENSSL_cleanse(digest, sizeof digest);
    return done;
}

/* --- encoding --- */

static bool is_unreserved(unsigned char c)
{
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '.' || c == '_' || c == '~';
}

static void encode_byte(struct buffer *out, unsigned char c, bool keep_slash)
{
    if (is_unreserved(c) || (keep_slash && c == '/')) {
        buffer_append_char(out, (char)c);
        return;
    }
    buffer_append_char(out, '%');
    buffer_append_char(out, hex_digits[c >> 4]);
    buffer_append_char(out, hex_digits[c & 15]);
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* A name or value of the query: decoded and encoded again. What is no escape stands for itself. */
static void recode(struct buffer *out, const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        int high = text[i] == '%' && len - i > 2 ? hex_value(text[i + 1]) : -1;
        int low = high >= 0 ? hex_value(text[i + 2]) : -1;
        if (low < 0) {
            encode_byte(out, (unsigned char)text[i], false);
            continue;
        }
        encode_byte(out, (unsigned char)(high * 16 + low), false);
        i += 2;
    }
}

/* --- the canonical request --- */

/* RFC 3986, 5.2.4, and no empty segments. */
static void normalise_path(const char *path, struct buffer *out)
{
    size_t end = strlen(path);
    bool closed = true;
    for (size_t at = 0; at < end;) {
        size_t len = strcspn(path + at, "/");
        const char *segment = path + at;
        closed = at + len < end;
        at += len + 1;
        if (!len || (len == 1 && segment[0] == '.')) {
            closed = closed || len;
            continue;
        }
        if (len == 2 && segment[0] == '.' && segment[1] == '.') {
            while (out->len && out->data[--out->len] != '/')
                ;
            closed = true;
            continue;
        }
        buffer_append_char(out, '/');
        buffer_append(out, segment, len);
    }
    if (closed || !out->len)
        buffer_append_char(out, '/');
}

static void append_path(const struct sigv4_request *r, struct buffer *out)
{
    BUFFER_AUTO path = BUFFER_INIT;
    if (r->is_s3) {
        buffer_append_text(out, r->path[0] ? r->path : "/");
        return;
    }
    normalise_path(r->path, &path);
    for (size_t i = 0; i < path.len; i++)
        encode_byte(out, (unsigned char)path.data[i], true);
    out->failed |= path.failed;
}

static int compare_texts(const void *a, const void *b)
{
    const char *const *x = a;
    const char *const *y = b;
    return strcmp(*x, *y);
}

/* "name\1value" each, so that they sort by name first: \1 is below all characters that names have. */
static int append_query(const char *query, struct buffer *out, struct error *err)
{
    BUFFER_AUTO text = BUFFER_INIT;
    size_t starts[MAX_PARAMETERS];
    const char *sorted[MAX_PARAMETERS];
    size_t n = 0;
    for (size_t len; *query; query += len + (query[len] == '&')) {
        len = strcspn(query, "&");
        size_t name = strcspn(query, "&=");
        if (!len)
            continue;
        if (n == MAX_PARAMETERS)
            return error_set(err, ERROR_INVALID, "a query of more than %d parameters", MAX_PARAMETERS);
        starts[n++] = text.len;
        recode(&text, query, name);
        buffer_append_char(&text, '\1');
        if (name < len)
            recode(&text, query + name + 1, len - name - 1);
        buffer_append_char(&text, '\0');
    }
    if (text.failed)
        return error_set(err, ERROR_MEMORY, "out of memory");
    for (size_t i = 0; i < n; i++)
        sorted[i] = text.data + starts[i];
    qsort(sorted, n, sizeof sorted[0], compare_texts);
    for (size_t i = 0; i < n; i++) {
        size_t name = strcspn(sorted[i], "\1");
        if (i)
            buffer_append_char(out, '&');
        buffer_append(out, sorted[i], name);
        buffer_append_char(out, '=');
        buffer_append_text(out, sorted[i] + name + 1);
    }
    return 0;
}

static void append_lower(struct buffer *out, const char *text)
{
    for (; *text; text++)
        buffer_append_char(out, (char)tolower((unsigned char)*text));
}

static void append_trimmed(struct buffer *out, const char *value)
{
    value += strspn(value, " \t");
    for (size_t blanks; *value; value += blanks) {
        size_t len = strcspn(value, " \t");
        buffer_append(out, value, len);
        value += len;
        blanks = strspn(value, " \t");
        if (blanks && value[blanks])
            buffer_append_char(out, ' ');
    }
}

/* A few: insertion keeps those of one name in their order. */
static void sort_headers(struct sigv4_header *headers, size_t n)
{
    for (size_t i = 1; i < n; i++) {
        struct sigv4_header moved = headers[i];
        size_t at = i;
        for (; at && strcasecmp(headers[at - 1].name, moved.name) > 0; at--)
            headers[at] = headers[at - 1];
        headers[at] = moved;
    }
}

/* Appends the canonical headers to out, and the list of their names to names. */
static void append_headers(const struct sigv4_header *headers, size_t n, struct buffer *out,
                           struct buffer *names)
{
    for (size_t i = 0; i < n; i++) {
        if (i && !strcasecmp(headers[i].name, headers[i - 1].name)) {
            out->len -= out->len > 0; /* the line's end */
            buffer_append_char(out, ',');
        } else {
            if (i)
                buffer_append_char(names, ';');
            append_lower(names, headers[i].name);
            append_lower(out, headers[i].name);
            buffer_append_char(out, ':');
        }
        append_trimmed(out, headers[i].value);
        buffer_append_char(out, '\n');
    }
}

static size_t collect_headers(const struct sigv4_credentials *c, const struct sigv4_request *r,
                              const struct sigv4_signature *s, struct sigv4_header headers[MAX_HEADERS])
{
    size_t n = 0;
    headers[n++] = (struct sigv4_header){"host", r->host};
    headers[n++] = (struct sigv4_header){"x-amz-date", s->date};
    if (c->session_token)
        headers[n++] = (struct sigv4_header){"x-amz-security-token", c->session_token};
    if (r->is_s3)
        headers[n++] = (struct sigv4_header){"x-amz-content-sha256", s->content_sha256};
    for (size_t i = 0; i < r->n_headers; i++)
        headers[n++] = r->headers[i];
    sort_headers(headers, n);
    return n;
}

static int append_request(const struct sigv4_credentials *c, const struct sigv4_request *r,
                          const struct sigv4_signature *s, struct buffer *out, struct buffer *names,
                          struct error *err)
{
    struct sigv4_header headers[MAX_HEADERS];
    size_t n = collect_headers(c, r, s, headers);
    buffer_append_text(out, r->method);
    buffer_append_char(out, '\n');
    append_path(r, out);
    buffer_append_char(out, '\n');
    if (r->query && append_query(r->query, out, err) < 0)
        return -1;
    buffer_append_char(out, '\n');
    append_headers(headers, n, out, names);
    buffer_append_char(out, '\n');
    buffer_append(out, names->data, names->len);
    buffer_append_char(out, '\n');
    buffer_append_text(out, s->content_sha256);
    return 0;
}

/* --- signing --- */

static bool derive_key(const char *secret, const char *date, const char *region, const char *service,
                       unsigned char ret_key[HASH_BYTES])
{
    BUFFER_AUTO first = BUFFER_INIT;
    buffer_append_text(&first, "AWS4");
    buffer_append_text(&first, secret);
    bool done = !first.failed &&
                hmac((const unsigned char *)first.data, first.len, date, strlen("YYYYMMDD"), ret_key) &&
                hmac(ret_key, HASH_BYTES, region, strlen(region), ret_key) &&
                hmac(ret_key, HASH_BYTES, service, strlen(service), ret_key) &&
                hmac(ret_key, HASH_BYTES, "aws4_request", strlen("aws4_request"), ret_key);
    if (first.data)
        OPENSSL_cleanse(first.data, first.len);
    return done;
}

static void append_all(struct buffer *out, const char *const *texts)
{
    for (; *texts; texts++)
        buffer_append_text(out, *texts);
}

/* "YYYYMMDD/region/service/<last>" */
static void append_scope(struct buffer *out, const char *date, const char *region, const char *service,
                         const char *last)
{
    buffer_append(out, date, strlen("YYYYMMDD"));
    append_all(out, (const char *const[]){"/", region, "/", service, "/", last, NULL});
}

/* The key that is kept, if it is of the same; else derives it, and keeps it. */
static bool find_key(const char *secret, const char *date, const char *region, const char *service,
                     struct sigv4_key *kept, unsigned char ret_key[HASH_BYTES])
{
    struct buffer of = BUFFER_INIT;
    if (!kept)
        return derive_key(secret, date, region, service, ret_key);
    append_scope(&of, date, region, service, secret);
    if (of.failed) {
        buffer_done(&of);
        return false;
    }
    bool same = kept->of.len == of.len && CRYPTO_memcmp(kept->of.data, of.data, of.len) == 0;
    if (same) {
        OPENSSL_cleanse(of.data, of.len);
        buffer_done(&of);
    } else {
        sigv4_key_done(kept);
        if (!derive_key(secret, date, region, service, kept->bytes)) {
            OPENSSL_cleanse(of.data, of.len);
            buffer_done(&of);
            return false;
        }
        kept->of = of;
    }
    memcpy(ret_key, kept->bytes, HASH_BYTES);
    return true;
}

void sigv4_key_done(struct sigv4_key *key)
{
    if (key->of.data)
        OPENSSL_cleanse(key->of.data, key->of.len);
    buffer_done(&key->of);
    OPENSSL_cleanse(key, sizeof *key);
    *key = (struct sigv4_key){.of = BUFFER_INIT};
}

static bool is_plain(const char *text)
{
    for (; *text; text++)
        if (((unsigned char)*text < ' ' && *text != '\t') || *text == 0x7f)
            return false;
    return true;
}

static int check(const struct sigv4_credentials *c, const char *region, const char *service,
                 const struct sigv4_request *r, struct error *err)
{
    const char *const parts[][2] = {
        {"access key id", c->access_key_id},
        {"secret access key", c->secret_access_key},
        {"session token", c->session_token ? c->session_token : ""},
        {"region", region},
        {"service", service},
        {"method", r->method},
        {"host", r->host},
        {"path", r->path},
        {"query", r->query ? r->query : ""},
    };
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
        if (!is_plain(parts[i][1]))
            return error_set(err, ERROR_INVALID, "the %s holds control characters", parts[i][0]);
    for (size_t i = 0; i < r->n_headers; i++)
        if (!is_plain(r->headers[i].name) || !is_plain(r->headers[i].value))
            return error_set(err, ERROR_INVALID, "header %zu to be signed holds control characters", i);
    if (r->n_headers > MAX_HEADERS - 4)
        return error_set(err, ERROR_INVALID, "more than %d headers to be signed", MAX_HEADERS - 4);
    return 0;
}

static bool write_date(uint64_t unix_s, char ret_date[SIGV4_DATE_MAX])
{
    time_t t = (time_t)unix_s;
    struct tm tm;
    return gmtime_r(&t, &tm) &&
           strftime(ret_date, SIGV4_DATE_MAX, "%Y%m%dT%H%M%SZ", &tm) == SIGV4_DATE_MAX - 1;
}

/* Signs what `request` holds, and composes the header. */
static bool finish(const struct sigv4_credentials *c, const char *region, const char *service,
                   const struct buffer *request, struct sigv4_key *key_kept, struct buffer *names,
                   struct sigv4_signature *s)
{
    BUFFER_AUTO text = BUFFER_INIT;
    char hash[SIGV4_HEX_MAX];
    unsigned char key[HASH_BYTES];
    unsigned char digest[HASH_BYTES] = {0};
    BUFFER_AUTO scope = BUFFER_INIT;
    append_scope(&scope, s->date, region, service, "aws4_request");
    bool done = !request->failed && hash_hex(request->data, request->len, hash);
    if (!done)
        return false;
    append_all(&text,
               (const char *const[]){ALGORITHM, "\n", s->date, "\n", buffer_text(&scope), "\n", hash, NULL});
    done = !text.failed && find_key(c->secret_access_key, s->date, region, service, key_kept, key) &&
           hmac(key, sizeof key, text.data, text.len, digest);
    OPENSSL_cleanse(key, sizeof key);
    write_hex(digest, s->signature);
    append_all(&s->authorization,
               (const char *const[]){ALGORITHM, " Credential=", c->access_key_id, "/", buffer_text(&scope),
                                     ", SignedHeaders=", buffer_text(names), ", Signature=", s->signature,
                                     NULL});
    return done && !scope.failed && !names->failed && !s->authorization.failed;
}

int sigv4_sign(const struct sigv4_credentials *credentials, const char *region, const char *service,
               const struct sigv4_request *request, uint64_t unix_s, struct sigv4_signature *ret_signature,
               struct error *err)
{
    struct sigv4_signature s = {.authorization = BUFFER_INIT};
    BUFFER_AUTO text = BUFFER_INIT;
    BUFFER_AUTO names = BUFFER_INIT;
    if (check(credentials, region, service, request, err) < 0)
        return -1;
    if (!write_date(unix_s, s.date))
        return error_set(err, ERROR_INVALID, "%llu is no time", (unsigned long long)unix_s);
    if (!hash_hex(request->body, request->body_len, s.content_sha256))
        return error_set(err, ERROR_MEMORY, "SHA-256 fails");
    if (append_request(credentials, request, &s, &text, &names, err) < 0)
        return -1;
    if (!finish(credentials, region, service, &text, request->key, &names, &s)) {
        sigv4_done(&s);
        return error_set(err, ERROR_MEMORY, "out of memory for a signature");
    }
    *ret_signature = s;
    return 0;
}

void sigv4_done(struct sigv4_signature *signature)
{
    buffer_done(&signature->authorization);
}
