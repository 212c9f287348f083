/* Who may use the trigger API (docs/trigger-api.md): the stored users, kept in memory, and the operator with
 * a token of this run of the supervisor.
 *
 * Checking never waits for the storage: users are read by others (auth_refresh), every AUTH_REFRESH_NS and
 * soon after someone came whom nobody knows, since other programs may store users, too. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct auth;
struct buffer;
struct error;
struct storage;

#define AUTH_OPERATOR "operator"
#define AUTH_TOKEN_FILE "operator.token"
#define AUTH_DIGEST_LEN 64
#define AUTH_USER_MAX 256 /* with its NUL */
#define AUTH_REFRESH_NS 5000000000ull
#define AUTH_REFRESH_MIN_NS 1000000000ull /* between two readings, whoever comes */

/* Makes the operator's token and writes it to AUTH_TOKEN_FILE in the run directory (0600). */
int auth_new(const char *run_directory, struct auth **ret_auth, struct error *err);
void auth_free(struct auth *auth); /* NULL is fine */

/* Whether user (NULL: no credentials) may, by its digest or the operator's token: 0, 401, or 503 while the
 * users are not known yet; with a static text. Takes as long for a wrong password as for a right one.
 * Thread: any; never waits. */
unsigned auth_check(struct auth *auth, const char *user, const char *password, bool loopback,
                    const char **ret_error);

/* Whether the users should be read now; then it counts as begun. Thread: any. */
bool auth_due(struct auth *auth, uint64_t now_ns);
/* Reads the users; the first time that this succeeds with admin set, `admin` is stored unless there is one.
 * Errors: as the storage's; the old users stay. Thread: any. */
int auth_refresh(struct auth *auth, struct storage *storage, bool admin, struct error *err);

/* Appends the users' names as a JSON array, sorted. Thread: any. */
void auth_write_users(struct auth *auth, struct buffer *out);

bool auth_knows(struct auth *auth, const char *user); /* Thread: any */

/* Whether a user may have this name: 1 to 255 bytes of UTF-8 without colons and control characters, and not
 * the operator's. */
bool auth_name_valid(const char *user);
/* Lower-case hex of HMAC-SHA3-256(key = password, message = user). */
void auth_digest(const char *user, const char *password, char ret_digest[AUTH_DIGEST_LEN + 1]);
