/* Signature Version 4: vectors of the AWS test suite, what canonicalisation leaves open, and agreement with
 * botocore, where there is one (the first python3 that can import it; TRIGGERFLOW_BOTOCORE names another). */
#include "common/sigv4.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/error.h"

#define UNIX_S 1440938160 /* 20150830T123600Z */
#define REGION "us-east-1"

static const struct sigv4_credentials example = {"AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
                                                 NULL};

struct vector {
    const char *name; /* in the suite */
    const char *method, *path, *query;
    struct sigv4_header headers[4];
    const char *body;
    const char *signature;
};

static const struct vector suite[] = {
    {"get-vanilla",
     "GET",
     "/",
     NULL,
     {{0}},
     "",
     "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"},
    {"get-vanilla-empty-query-key",
     "GET",
     "/",
     "Param1=value1",
     {{0}},
     "",
     "a67d582fa61cc504c4bae71f336f98b97f1ea3c7a6bfe1b6e45aec72011b9aeb"},
    {"get-vanilla-query-order-key-case",
     "GET",
     "/",
     "Param2=value2&Param1=value1",
     {{0}},
     "",
     "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500"},
    {"get-vanilla-query-unreserved",
     "GET",
     "/",
     "-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz="
     "-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz",
     {{0}},
     "",
     "9c3e54bfcdf0b19771a7f523ee5669cdf59bc7cc0884027167c21bb143a40197"},
    {"get-vanilla-utf8-query",
     "GET",
     "/",
     "\u1234=bar",
     {{0}},
     "",
     "2cdec8eed098649ff3a119c94853b13c643bcf08f8b0a1d91e12c9027818dd04"},
    {"get-unreserved",
     "GET",
     "/-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz",
     NULL,
     {{0}},
     "",
     "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f"},
    {"get-utf8",
     "GET",
     "/\u1234",
     NULL,
     {{0}},
     "",
     "8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85"},
    {"get-relative",
     "GET",
     "/example/..",
     NULL,
     {{0}},
     "",
     "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"},
    {"get-relative-relative",
     "GET",
     "/example1/example2/../..",
     NULL,
     {{0}},
     "",
     "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"},
    {"get-slash-dot-slash",
     "GET",
     "/./",
     NULL,
     {{0}},
     "",
     "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"},
    {"get-slash",
     "GET",
     "//",
     NULL,
     {{0}},
     "",
     "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"},
    {"get-slashes",
     "GET",
     "//example//",
     NULL,
     {{0}},
     "",
     "9a624bd73a37c9a373b5312afbebe7a714a789de108f0bdfe846570885f57e84"},
    {"get-space",
     "GET",
     "/example space/",
     NULL,
     {{0}},
     "",
     "652487583200325589f1fba4c7e578f72c47cb61beeca81406b39ddec1366741"},
    {"get-header-value-trim",
     "GET",
     "/",
     NULL,
     {{"My-Header1", " value1"}, {"My-Header2", " \"a   b   c\""}},
     "",
     "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736"},
    {"get-header-key-duplicate",
     "GET",
     "/",
     NULL,
     {{"My-Header1", "value2"}, {"My-Header1", "value2"}, {"My-Header1", "value1"}},
     "",
     "c9d5ea9f3f72853aea855b47ea873832890dbdd183b4468f858259531a5138ea"},
    {"get-header-value-order",
     "GET",
     "/",
     NULL,
     {{"My-Header1", "value4"}, {"My-Header1", "value1"}, {"My-Header1", "value3"}, {"My-Header1", "value2"}},
     "",
     "08c7e5a9acfcfeb3ab6b2185e75ce8b1deb5e634ec47601a50643f830c755c01"},
    {"post-vanilla",
     "POST",
     "/",
     NULL,
     {{0}},
     "",
     "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"},
    {"post-vanilla-query",
     "POST",
     "/",
     "Param1=value1",
     {{0}},
     "",
     "28038455d6de14eafc1f9222cf5aa6f1a96197d7deb8263271d420d138af7f11"},
    {"post-header-value-case",
     "POST",
     "/",
     NULL,
     {{"My-Header1", "VALUE1"}},
     "",
     "cdbc9802e29d2942e5e10b5bccfdd67c5f22c7c4e8ae67b53629efa58b974b7d"},
    {"post-x-www-form-urlencoded",
     "POST",
     "/",
     NULL,
     {{"Content-Type", "application/x-www-form-urlencoded"}},
     "Param1=value1",
     "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a"},
};

static size_t count_headers(const struct sigv4_header *headers)
{
    size_t n = 0;
    while (n < 4 && headers[n].name)
        n++;
    return n;
}

static void sign(const struct sigv4_credentials *credentials, const char *service,
                 const struct sigv4_request *request, struct sigv4_signature *ret_signature)
{
    struct error err;
    if (sigv4_sign(credentials, REGION, service, request, UNIX_S, ret_signature, &err) < 0)
        fail_msg("%s", err.message);
}

/* The key that is kept is used for what it was derived for, and for nothing else. */
static void test_kept_key(void **state)
{
    static const struct {
        const char *secret, *region, *service;
        uint64_t unix_s;
    } rows[] = {{"one", "r-1", "sqs", UNIX_S},         {"one", "r-1", "sqs", UNIX_S},
                {"one", "r-1", "sqs", UNIX_S + 86400}, {"two", "r-1", "sqs", UNIX_S},
                {"two", "r-2", "sqs", UNIX_S},         {"two", "r-2", "lambda", UNIX_S},
                {"one", "r-1", "sqs", UNIX_S},         {"one", "r-1", "sq", UNIX_S}};
    struct sigv4_key key = {.of = BUFFER_INIT};
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct sigv4_credentials c = {"AKID", rows[i].secret, NULL};
        struct sigv4_request r = {.method = "POST", .host = "h", .path = "/", .body = "{}", .body_len = 2};
        struct sigv4_signature alone, kept;
        assert_int_equal(sigv4_sign(&c, rows[i].region, rows[i].service, &r, rows[i].unix_s, &alone, NULL),
                         0);
        r.key = &key;
        assert_int_equal(sigv4_sign(&c, rows[i].region, rows[i].service, &r, rows[i].unix_s, &kept, NULL), 0);
        assert_string_equal(alone.signature, kept.signature);
        sigv4_done(&alone);
        sigv4_done(&kept);
    }
    sigv4_key_done(&key);
    assert_int_equal(key.of.len, 0);
}

static void test_suite(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof suite / sizeof suite[0]; i++) {
        const struct vector *v = &suite[i];
        struct sigv4_signature s;
        struct sigv4_request r = {.method = v->method,
                                  .host = "example.amazonaws.com",
                                  .path = v->path,
                                  .query = v->query,
                                  .headers = v->headers,
                                  .n_headers = count_headers(v->headers),
                                  .body = v->body,
                                  .body_len = strlen(v->body)};
        sign(&example, "service", &r, &s);
        if (strcmp(s.signature, v->signature))
            fail_msg("%s: %s instead of %s", v->name, s.signature, v->signature);
        assert_string_equal(s.date, "20150830T123600Z");
        sigv4_done(&s);
    }
}

/* The worked example of the documentation. */
static void test_documented(void **state)
{
    struct sigv4_signature s;
    struct sigv4_header type = {"Content-Type", "application/x-www-form-urlencoded; charset=utf-8"};
    struct sigv4_request r = {.method = "GET",
                              .host = "iam.amazonaws.com",
                              .path = "/",
                              .query = "Action=ListUsers&Version=2010-05-08",
                              .headers = &type,
                              .n_headers = 1};
    (void)state;
    sign(&example, "iam", &r, &s);
    assert_string_equal(buffer_text(&s.authorization),
                        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/iam/aws4_request, "
                        "SignedHeaders=content-type;host;x-amz-date, "
                        "Signature=5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7");
    sigv4_done(&s);
}

static void test_session_token(void **state)
{
    struct sigv4_signature s;
    struct sigv4_credentials temporary = example;
    struct sigv4_request r = {.method = "POST", .host = "example.amazonaws.com", .path = "/"};
    (void)state;
    temporary.session_token =
        "AQoDYXdzEPT//////////"
        "wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD"
        "8YUuwthAx7mSEI/qkPpKPi/"
        "kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6"
        "q6fE8YQcHNVXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+"
        "scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJa"
        "bIQwj2ICCR/oLxBA==";
    sign(&temporary, "service", &r, &s);
    assert_string_equal(s.signature, "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead");
    assert_non_null(
        strstr(buffer_text(&s.authorization), "SignedHeaders=host;x-amz-date;x-amz-security-token,"));
    assert_null(strstr(buffer_text(&s.authorization), temporary.session_token));
    sigv4_done(&s);
}

static void assert_same(const struct sigv4_request *a, const struct sigv4_request *b, bool same)
{
    struct sigv4_signature x, y;
    sign(&example, "service", a, &x);
    sign(&example, "service", b, &y);
    assert_int_equal(!strcmp(x.signature, y.signature), same);
    sigv4_done(&x);
    sigv4_done(&y);
}

/* One canonical form for what means the same. */
static void test_canonical(void **state)
{
    struct sigv4_request a = {.method = "GET", .host = "example.amazonaws.com", .path = "/a/b"};
    struct sigv4_request b = a;
    (void)state;
    b.path = "/a/./x//../b";
    assert_same(&a, &b, true);
    b.path = "/a/b/";
    assert_same(&a, &b, false);
    a.path = "/a/";
    b.path = "/a/b/..";
    assert_same(&a, &b, true);
    a.path = "";
    b.path = "/../..";
    assert_same(&a, &b, true);
    a.query = "b=%7e&a=1&a=%2B&&c";
    b.query = "c=&a=+&b=~&a=1";
    assert_same(&a, &b, true);
    b.query = "c=&a=%20&b=~&a=1";
    assert_same(&a, &b, false);
    a.query = b.query = "x=%zz&y=%";
    b.query = "y=%25&x=%25zz";
    assert_same(&a, &b, true);
    b.query = a.query;
    b.is_s3 = true;
    assert_same(&a, &b, false);
    a.query = "a-=1&a=2"; /* by name first: "a" is before "a-", though "=" is after "-" */
    b = a;
    b.query = "a=2&a-=1";
    assert_same(&a, &b, true);
}

static void test_refused(void **state)
{
    struct error err;
    struct sigv4_signature s;
    struct sigv4_header header = {"x-a", "b\r\nc: d"};
    struct sigv4_request r = {.method = "GET", .host = "h", .path = "/"};
    struct sigv4_credentials bad = example;
    char query[4096] = "";
    (void)state;
    bad.secret_access_key = "secret\n";
    assert_int_equal(sigv4_sign(&bad, REGION, "s", &r, UNIX_S, &s, &err), -1);
    assert_int_equal(err.code, ERROR_INVALID);
    assert_string_equal(err.message, "the secret access key holds control characters");
    r.headers = &header;
    r.n_headers = 1;
    assert_int_equal(sigv4_sign(&example, REGION, "s", &r, UNIX_S, &s, &err), -1);
    r.n_headers = 0;
    r.path = "/\n";
    assert_int_equal(sigv4_sign(&example, REGION, "s", &r, UNIX_S, &s, &err), -1);
    r.path = "/";
    assert_int_equal(sigv4_sign(&example, REGION, "s", &r, UINT64_MAX / 2, &s, &err), -1);
    for (int i = 0; i < 300; i++)
        strcat(query, "a=b&");
    r.query = query;
    assert_int_equal(sigv4_sign(&example, REGION, "s", &r, UNIX_S, &s, &err), -1);
}

/* --- botocore --- */

static const char botocore_script[] =
    "import sys,datetime\n"
    "import botocore.auth as a,botocore.awsrequest as q,botocore.credentials as c\n"
    "now=datetime.datetime.utcfromtimestamp(1440938160)\n"
    "class D(datetime.datetime):\n"
    "  utcnow=classmethod(lambda k:now)\n"
    "  now=classmethod(lambda k,tz=None:now.replace(tzinfo=tz))\n"
    "if hasattr(a,'get_current_datetime'): a.get_current_datetime=lambda *x,**y:now\n"
    "if hasattr(a.datetime,'datetime'): a.datetime=type('M',(),dict(vars(datetime),datetime=D))\n"
    "else: a.datetime=D\n"
    "for line in sys.stdin.read().splitlines():\n"
    "  m,u,t,k,b=line.split('\\t')\n"
    "  r=q.AWSRequest(method=m,url=u,data=b.encode(),headers={'X-Amz-Target':k})\n"
    "  a.SigV4Auth(c.Credentials('AKIDEXAMPLE','wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY',t or None),"
    "'sqs','us-east-1').add_auth(r)\n"
    "  print(r.headers['Authorization'].rsplit('=',1)[1])\n";

struct request_line {
    const char *method, *path, *query, *token, *target, *body;
};

static const struct request_line lines[] = {
    {"POST", "/", "", "", "AmazonSQS.ReceiveMessage", "{\"QueueUrl\":\"http://h/1/q\"}"},
    {"POST", "/", "", "token/with+signs==", "AmazonSQS.SendMessage", "{\"MessageBody\":\"\u00e9\u4e2d\"}"},
    {"POST", "/1234/queue%20name.fifo", "", "", "a", ""},
    {"GET", "/a/../b/./c//d/", "b=2&a=1&a=0&c=", "", "  two   blanks ", ""},
    {"POST", "/2015-03-31/functions/arn%3Aaws%3Alambda%3Aeu-west-1%3A1%3Afunction%3Af/invocations",
     "Qualifier=live", "t", "x", "{}"},
    {"GET", "/~user/%C3%A9", "x=%20y&z=%2F%3D&w=~", "", "x", ""},
};

/* The interpreter to ask; NULL: none has botocore. */
static const char *find_python(void)
{
    const char *given = getenv("TRIGGERFLOW_BOTOCORE");
    const char *candidates[] = {given, "build/venv-moto/bin/python3", "python3"};
    for (size_t i = 0; i < 3; i++) {
        char command[512];
        if (!candidates[i])
            continue;
        snprintf(command, sizeof command, "%s -c 'import botocore.auth' >/dev/null 2>&1", candidates[i]);
        if (system(command) == 0)
            return candidates[i];
    }
    return NULL;
}

static void write_lines(const char *dir)
{
    char path[128];
    snprintf(path, sizeof path, "%s/script.py", dir);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(botocore_script, f);
    assert_int_equal(fclose(f), 0);
    snprintf(path, sizeof path, "%s/lines", dir);
    assert_non_null(f = fopen(path, "w"));
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++)
        fprintf(f, "%s\thttp://127.0.0.1:9324%s%s%s\t%s\t%s\t%s\n", lines[i].method, lines[i].path,
                lines[i].query[0] ? "?" : "", lines[i].query, lines[i].token, lines[i].target, lines[i].body);
    assert_int_equal(fclose(f), 0);
}

static void compare(FILE *answers)
{
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        const struct request_line *l = &lines[i];
        char theirs[128] = "";
        struct sigv4_signature s;
        struct sigv4_credentials c = example;
        struct sigv4_header target = {"X-Amz-Target", l->target};
        struct sigv4_request r = {.method = l->method,
                                  .host = "127.0.0.1:9324",
                                  .path = l->path,
                                  .query = l->query,
                                  .headers = &target,
                                  .n_headers = 1,
                                  .body = l->body,
                                  .body_len = strlen(l->body)};
        c.session_token = l->token[0] ? l->token : NULL;
        sign(&c, "sqs", &r, &s);
        assert_non_null(fgets(theirs, sizeof theirs, answers));
        theirs[strcspn(theirs, "\n")] = '\0';
        if (strcmp(s.signature, theirs))
            fail_msg("%s %s: %s, botocore %s", l->method, l->path, s.signature, theirs);
        sigv4_done(&s);
    }
}

static void test_botocore(void **state)
{
    char dir[] = "/tmp/triggerflow-sigv4-XXXXXX";
    char command[512];
    const char *python = find_python();
    (void)state;
    if (!python) {
        puts("skipped: no python3 with botocore");
        skip();
    }
    assert_non_null(mkdtemp(dir));
    write_lines(dir);
    snprintf(command, sizeof command, "%s -W ignore %s/script.py <%s/lines", python, dir, dir);
    FILE *answers = popen(command, "r");
    assert_non_null(answers);
    compare(answers);
    assert_int_equal(pclose(answers), 0);
    snprintf(command, sizeof command, "rm -rf %s", dir);
    assert_int_equal(system(command), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_suite),      cmocka_unit_test(test_kept_key),
        cmocka_unit_test(test_documented), cmocka_unit_test(test_session_token),
        cmocka_unit_test(test_canonical),  cmocka_unit_test(test_refused),
        cmocka_unit_test(test_botocore),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
