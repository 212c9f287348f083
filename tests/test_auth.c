/* Who may use the trigger API: users, the operator, reading them again. */
#include "supervisor/auth.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/buffer.h"
#include "common/clock.h"
#include "common/error.h"
#include "common/storage/storage.h"

#define USERS_MAX 8

/* A storage with users alone. */
static struct {
    struct storage storage;
    struct {
        char name[64];
        char digest[80];
    } user[USERS_MAX];
    size_t n;
    bool away;
    unsigned reads;
} fake;

static int fake_users(struct storage *storage, storage_field field, void *data, struct error *err)
{
    (void)storage;
    fake.reads++;
    if (fake.away)
        return error_set(err, ERROR_UNAVAILABLE, "away");
    for (size_t i = 0; i < fake.n; i++)
        if (field(data, fake.user[i].name, strlen(fake.user[i].name), fake.user[i].digest,
                  strlen(fake.user[i].digest)) < 0)
            return -1;
    return 0;
}

static int fake_user_put(struct storage *storage, const char *user, const char *digest, struct error *err)
{
    (void)storage;
    (void)err;
    assert_non_null(digest);
    assert_true(fake.n < USERS_MAX);
    snprintf(fake.user[fake.n].name, sizeof fake.user[0].name, "%s", user);
    snprintf(fake.user[fake.n++].digest, sizeof fake.user[0].digest, "%s", digest);
    return 0;
}

static const struct storage_type fake_type = {.name = "fake", .users = fake_users, .user_put = fake_user_put};

static char directory[64];
static char token[AUTH_DIGEST_LEN + 1];

static int setup(void **state)
{
    char path[128];
    struct error err;
    memset(&fake, 0, sizeof fake);
    fake.storage.type = &fake_type;
    snprintf(directory, sizeof directory, "/tmp/triggerflow-auth-XXXXXX");
    assert_non_null(mkdtemp(directory));
    assert_int_equal(auth_new(directory, (struct auth **)state, &err), 0);
    snprintf(path, sizeof path, "%s/" AUTH_TOKEN_FILE, directory);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    assert_non_null(fgets(token, sizeof token, file));
    fclose(file);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    return 0;
}

static int teardown(void **state)
{
    char path[128];
    auth_free(*state);
    snprintf(path, sizeof path, "%s/" AUTH_TOKEN_FILE, directory);
    unlink(path);
    return rmdir(directory);
}

static unsigned check(struct auth *auth, const char *user, const char *password, bool loopback)
{
    const char *error;
    return auth_check(auth, user, password, loopback, &error);
}

static void add(const char *user, const char *password)
{
    char digest[AUTH_DIGEST_LEN + 1];
    auth_digest(user, password, digest);
    fake_user_put(NULL, user, digest, NULL);
}

static void refresh(struct auth *auth, bool admin)
{
    struct error err;
    assert_int_equal(auth_refresh(auth, &fake.storage, admin, &err), 0);
}

/* As the original client computes it: hmac.new(b"admin", b"admin", sha3_256).hexdigest(). */
static void test_digest(void **state)
{
    (void)state;
    char digest[AUTH_DIGEST_LEN + 1];
    auth_digest("admin", "admin", digest);
    assert_string_equal(digest, "ecfe7c0cd3f8a7fee141a7dd163a916fa82f87b948d5786a2c7eace2325373e1");
    auth_digest("j\xc3\xb6rg", "se cret", digest);
    assert_string_equal(digest, "b844c43d5318ea3dba3c986a99d7a7546cd38bc52eae1e1ee99b210172867434");
}

static void test_operator(void **state)
{
    assert_int_equal(check(*state, AUTH_OPERATOR, token, true), 0);
    assert_int_equal(check(*state, AUTH_OPERATOR, token, false), 401);
    assert_int_equal(check(*state, AUTH_OPERATOR, "", true), 401);
    token[5] = token[5] == 'a' ? 'b' : 'a';
    assert_int_equal(check(*state, AUTH_OPERATOR, token, true), 401);
    assert_int_equal(check(*state, NULL, NULL, true), 401);
}

static void test_users(void **state)
{
    char digest[AUTH_DIGEST_LEN + 2];
    add("ann", "secret");
    auth_digest("ann", "secret", digest);
    assert_int_equal(check(*state, "ann", digest, true), 503); /* nobody knows yet */
    refresh(*state, false);
    assert_int_equal(check(*state, "ann", digest, false), 0);
    assert_int_equal(check(*state, "ann", "secret", true), 401);
    assert_int_equal(check(*state, "bob", digest, true), 401);
    assert_int_equal(check(*state, "ann", NULL, true), 401);
    digest[AUTH_DIGEST_LEN] = '0';
    digest[AUTH_DIGEST_LEN + 1] = '\0';
    assert_int_equal(check(*state, "ann", digest, true), 401); /* longer */
    digest[AUTH_DIGEST_LEN - 1] = '\0';
    assert_int_equal(check(*state, "ann", digest, true), 401); /* shorter */
    assert_true(auth_knows(*state, "ann"));
    /* The storage away: the users stay. Gone from it: they go. */
    struct error err;
    fake.away = true;
    assert_int_equal(auth_refresh(*state, &fake.storage, false, &err), -1);
    assert_true(auth_knows(*state, "ann"));
    fake.away = false;
    fake.n = 0;
    refresh(*state, false);
    assert_false(auth_knows(*state, "ann"));
}

static void test_stored_users_that_cannot_be(void **state)
{
    BUFFER_AUTO out = BUFFER_INIT;
    add("b", "x");
    add("a", "x");
    add(AUTH_OPERATOR, "mine");
    fake_user_put(NULL, "short", "abc", NULL);
    fake_user_put(NULL, "a:b", fake.user[0].digest, NULL);
    refresh(*state, false);
    auth_write_users(*state, &out);
    assert_string_equal(buffer_text(&out), "[\"a\",\"b\"]");
    assert_int_equal(check(*state, AUTH_OPERATOR, fake.user[2].digest, true), 401);
    assert_int_equal(check(*state, "short", "abc", true), 401);
}

static void test_admin(void **state)
{
    char digest[AUTH_DIGEST_LEN + 1];
    auth_digest("admin", "admin", digest);
    refresh(*state, true);
    assert_int_equal(check(*state, "admin", digest, false), 0);
    /* Removed, it does not come back while the supervisor runs; one that is there keeps its password. */
    fake.n = 0;
    refresh(*state, true);
    assert_int_equal(fake.n, 0);
}

static void test_admin_that_is_there(void **state)
{
    add("admin", "better");
    refresh(*state, true);
    assert_int_equal(fake.n, 1);
}

static void test_when_to_read(void **state)
{
    uint64_t now = 100 * CLOCK_S;
    assert_true(auth_due(*state, now));
    assert_false(auth_due(*state, now + CLOCK_S / 2));
    assert_true(auth_due(*state, now += CLOCK_S)); /* nothing is known yet */
    refresh(*state, false);
    assert_false(auth_due(*state, now += CLOCK_S));
    check(*state, "who", "x", true);
    assert_true(auth_due(*state, now)); /* someone unknown came */
    check(*state, "who", "x", true);
    assert_false(auth_due(*state, now + CLOCK_S / 2)); /* but not so soon again */
    assert_true(auth_due(*state, now += CLOCK_S));
    assert_false(auth_due(*state, now + 4 * CLOCK_S));
    assert_true(auth_due(*state, now + 5 * CLOCK_S));
}

static void test_names(void **state)
{
    (void)state;
    char name[AUTH_USER_MAX + 1];
    memset(name, 'x', sizeof name);
    name[AUTH_USER_MAX] = '\0';
    assert_false(auth_name_valid(name));
    name[AUTH_USER_MAX - 1] = '\0';
    assert_true(auth_name_valid(name));
    assert_false(auth_name_valid(""));
    assert_false(auth_name_valid("a:b"));
    assert_false(auth_name_valid("a\nb"));
    assert_false(auth_name_valid("\xff"));
    assert_false(auth_name_valid(AUTH_OPERATOR));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_digest),
        cmocka_unit_test_setup_teardown(test_operator, setup, teardown),
        cmocka_unit_test_setup_teardown(test_users, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stored_users_that_cannot_be, setup, teardown),
        cmocka_unit_test_setup_teardown(test_admin, setup, teardown),
        cmocka_unit_test_setup_teardown(test_admin_that_is_there, setup, teardown),
        cmocka_unit_test_setup_teardown(test_when_to_read, setup, teardown),
        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
