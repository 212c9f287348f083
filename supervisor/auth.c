/* See auth.h. */
#include "supervisor/auth.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "common/buffer.h"
#include "common/error.h"
#include "common/hash.h"
#include "common/json.h"
#include "common/storage/storage.h"
#include "supervisor/rundir.h"

#define UNAUTHORISED 401
#define UNAVAILABLE 503

struct user {
    char digest[AUTH_DIGEST_LEN];
    char name[]; /* NUL-terminated */
};

struct auth {
    char token[AUTH_DIGEST_LEN];
    pthread_rwlock_t lock;
    struct hash_table users; /* name -> struct user. Requires: lock */
    bool known;              /* they have been read. Requires: lock */
    bool wanted;             /* someone came whom nobody knows. Requires: lock */
    uint64_t begun_ns;       /* the last reading. Requires: lock */
    pthread_mutex_t reading; /* held while users are read and put in force */
    bool admin_done;         /* Requires: reading */
};

/* ---- Names, digests ---- */

bool auth_name_valid(const char *user)
{
    size_t len = strlen(user);
    if (len == 0 || len >= AUTH_USER_MAX || !utf8_valid(user, len) || strcmp(user, AUTH_OPERATOR) == 0)
        return false;
    for (const char *c = user; *c; c++)
        if ((unsigned char)*c < ' ' || *c == ':' || *c == 0x7f)
            return false;
    return true;
}

static void write_hex(const unsigned char *bytes, size_t n, char *to)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < n; i++) {
        to[2 * i] = digits[bytes[i] >> 4];
        to[2 * i + 1] = digits[bytes[i] & 15];
    }
}

void auth_digest(const char *user, const char *password, char ret_digest[AUTH_DIGEST_LEN + 1])
{
    unsigned char digest[EVP_MAX_MD_SIZE] = {0};
    unsigned len = 0;
    HMAC(EVP_sha3_256(), password, (int)strlen(password), (const unsigned char *)user, strlen(user), digest,
         &len);
    write_hex(digest, AUTH_DIGEST_LEN / 2, ret_digest);
    ret_digest[AUTH_DIGEST_LEN] = '\0';
}

/* ---- The operator's token ---- */

static int write_token(const char *run_directory, const char *token, struct error *err)
{
    char path[RUNDIR_PATH_MAX], fresh[RUNDIR_PATH_MAX];
    if (rundir_path(run_directory, AUTH_TOKEN_FILE, path, err) < 0 ||
        rundir_path(run_directory, AUTH_TOKEN_FILE ".new", fresh, err) < 0)
        return -1;
    unlink(fresh);
    int fd = open(fresh, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return error_set_errno(err, errno, "%s", fresh);
    ssize_t n = write(fd, token, AUTH_DIGEST_LEN);
    ssize_t end = n < 0 ? n : write(fd, "\n", 1);
    int e = n < 0 || end < 0 ? errno : EIO;
    close(fd);
    if (n != AUTH_DIGEST_LEN || end != 1)
        return error_set_errno(err, e, "%s", fresh);
    return rename(fresh, path) < 0 ? error_set_errno(err, errno, "%s", path) : 0;
}

int auth_new(const char *run_directory, struct auth **ret_auth, struct error *err)
{
    unsigned char random[AUTH_DIGEST_LEN / 2];
    struct auth *auth = calloc(1, sizeof *auth);
    if (!auth)
        return error_set(err, ERROR_MEMORY, "users: out of memory");
    hash_init(&auth->users);
    pthread_rwlock_init(&auth->lock, NULL);
    pthread_mutex_init(&auth->reading, NULL);
    if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random) {
        error_set_errno(err, errno, "getrandom");
        auth_free(auth);
        return -1;
    }
    write_hex(random, sizeof random, auth->token);
    if (write_token(run_directory, auth->token, err) < 0) {
        auth_free(auth);
        return -1;
    }
    *ret_auth = auth;
    return 0;
}

static void users_done(struct hash_table *users)
{
    size_t cursor = 0;
    struct hash_entry *entry;
    while ((entry = hash_next(users, &cursor)) != NULL)
        free(entry->value);
    hash_done(users);
}

void auth_free(struct auth *auth)
{
    if (!auth)
        return;
    users_done(&auth->users);
    pthread_rwlock_destroy(&auth->lock);
    pthread_mutex_destroy(&auth->reading);
    OPENSSL_cleanse(auth->token, sizeof auth->token);
    free(auth);
}

/* ---- Checking ---- */

/* Looks at all bytes of both, whatever they are. */
static bool same(const char *expected, const char *given)
{
    char padded[AUTH_DIGEST_LEN] = {0};
    size_t len = strlen(given);
    memcpy(padded, given, len < sizeof padded ? len : sizeof padded);
    return CRYPTO_memcmp(expected, padded, sizeof padded) == 0 && len == sizeof padded;
}

unsigned auth_check(struct auth *auth, const char *user, const char *password, bool loopback,
                    const char **ret_error)
{
    static const char nobody[AUTH_DIGEST_LEN] = {0};
    *ret_error = "Unauthorized";
    if (!user || !password)
        return UNAUTHORISED;
    if (strcmp(user, AUTH_OPERATOR) == 0)
        return same(auth->token, password) && loopback ? 0 : UNAUTHORISED;
    pthread_rwlock_rdlock(&auth->lock);
    const struct user *found = hash_get(&auth->users, user, strlen(user));
    bool known = auth->known;
    bool fine = same(found ? found->digest : nobody, password) && found;
    pthread_rwlock_unlock(&auth->lock);
    if (fine)
        return 0;
    pthread_rwlock_wrlock(&auth->lock);
    auth->wanted = true;
    pthread_rwlock_unlock(&auth->lock);
    if (known)
        return UNAUTHORISED;
    *ret_error = "the storage has not told its users yet";
    return UNAVAILABLE;
}

/* ---- Reading ---- */

bool auth_due(struct auth *auth, uint64_t now_ns)
{
    pthread_rwlock_wrlock(&auth->lock);
    uint64_t wait = auth->wanted || !auth->known ? AUTH_REFRESH_MIN_NS : AUTH_REFRESH_NS;
    bool due = auth->begun_ns == 0 || now_ns >= auth->begun_ns + wait;
    if (due) {
        auth->begun_ns = now_ns;
        auth->wanted = false;
    }
    pthread_rwlock_unlock(&auth->lock);
    return due;
}

struct reading {
    struct hash_table users;
    struct error *err;
};

/* A user that cannot be one (another name, another form of digest) is left out. */
static int take_user(void *data, const char *key, size_t key_len, const char *value, size_t value_len)
{
    struct reading *reading = data;
    void *old = NULL;
    struct user *user = calloc(1, sizeof *user + key_len + 1);
    if (!user)
        return error_set(reading->err, ERROR_MEMORY, "users: out of memory");
    memcpy(user->name, key, key_len);
    if (strlen(user->name) != key_len || !auth_name_valid(user->name) || value_len != AUTH_DIGEST_LEN) {
        free(user);
        return 0;
    }
    memcpy(user->digest, value, AUTH_DIGEST_LEN);
    if (hash_put(&reading->users, user->name, key_len, user, &old) < 0) {
        free(user);
        return error_set(reading->err, ERROR_MEMORY, "users: out of memory");
    }
    free(old);
    return 0;
}

static int read_users(struct reading *reading, struct storage *storage, struct error *err)
{
    *reading = (struct reading){.err = err};
    hash_init(&reading->users);
    if (storage->type->users(storage, take_user, reading, err) == 0)
        return 0;
    users_done(&reading->users);
    return -1;
}

/* Requires: reading. */
static int refresh(struct auth *auth, struct storage *storage, bool admin, struct error *err)
{
    struct reading reading;
    if (read_users(&reading, storage, err) < 0)
        return -1;
    if (admin && !auth->admin_done && !hash_get(&reading.users, "admin", 5)) {
        char digest[AUTH_DIGEST_LEN + 1];
        auth_digest("admin", "admin", digest);
        users_done(&reading.users);
        if (storage->type->user_put(storage, "admin", digest, err) < 0 ||
            read_users(&reading, storage, err) < 0)
            return -1;
    }
    auth->admin_done |= admin;
    pthread_rwlock_wrlock(&auth->lock);
    struct hash_table old = auth->users;
    auth->users = reading.users;
    auth->known = true;
    pthread_rwlock_unlock(&auth->lock);
    users_done(&old);
    return 0;
}

int auth_refresh(struct auth *auth, struct storage *storage, bool admin, struct error *err)
{
    pthread_mutex_lock(&auth->reading);
    int result = refresh(auth, storage, admin, err);
    pthread_mutex_unlock(&auth->reading);
    return result;
}

bool auth_knows(struct auth *auth, const char *user)
{
    pthread_rwlock_rdlock(&auth->lock);
    bool known = hash_get(&auth->users, user, strlen(user)) != NULL;
    pthread_rwlock_unlock(&auth->lock);
    return known;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

void auth_write_users(struct auth *auth, struct buffer *out)
{
    pthread_rwlock_rdlock(&auth->lock);
    size_t n = 0, cursor = 0;
    struct hash_entry *entry;
    const char **names = malloc((auth->users.count + 1) * sizeof *names);
    while (names && (entry = hash_next(&auth->users, &cursor)) != NULL)
        names[n++] = entry->key;
    if (names)
        qsort(names, n, sizeof *names, by_name);
    else
        out->failed = true;
    buffer_append_char(out, '[');
    for (size_t i = 0; i < n; i++) {
        if (i > 0)
            buffer_append_char(out, ',');
        buffer_append_json(out, names[i], strlen(names[i]));
    }
    buffer_append_char(out, ']');
    free(names);
    pthread_rwlock_unlock(&auth->lock);
}
