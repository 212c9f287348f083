/* The examples that come to a certain end: each examples/NAME/run prints what stands in its expected.txt. */
#include <dirent.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/buffer.h"
#include "tests/support/process.h"

static void read_all(FILE *file, struct buffer *out)
{
    size_t n;
    char *to;
    while ((to = buffer_reserve(out, 4096)) && (n = fread(to, 1, 4096, file)) > 0)
        out->len += n;
    assert_false(out->failed);
}

static void run_example(const char *folder, const char *build)
{
    char command[2 * PATH_MAX + 32], path[PATH_MAX];
    BUFFER_AUTO expected = BUFFER_INIT;
    BUFFER_AUTO printed = BUFFER_INIT;
    snprintf(path, sizeof path, "%s/expected.txt", folder);
    FILE *file = fopen(path, "re");
    assert_non_null(file);
    read_all(file, &expected);
    fclose(file);
    snprintf(command, sizeof command, "%s/run %s", folder, build);
    file = popen(command, "re");
    assert_non_null(file);
    read_all(file, &printed);
    int status = pclose(file);
    if (status || printed.len != expected.len ||
        memcmp(buffer_text(&printed), buffer_text(&expected), printed.len))
        fail_msg("%s ends with status %d and prints\n%s", command, status, buffer_text(&printed));
    printf("%s\n", folder);
}

static void test_examples(void **state)
{
    char program[PATH_MAX], folder[PATH_MAX / 2], path[PATH_MAX];
    unsigned n = 0;
    struct dirent *entry;
    (void)state;
    process_program("triggerflow", program);
    *strrchr(program, '/') = '\0';
    DIR *examples = opendir("examples");
    if (!examples) {
        puts("skipped: not in the source tree");
        skip();
    }
    while ((entry = readdir(examples))) {
        snprintf(folder, sizeof folder, "examples/%s", entry->d_name);
        snprintf(path, sizeof path, "%s/expected.txt", folder);
        if (access(path, R_OK) || !strcmp(entry->d_name, "container")) /* which test_docker runs */
            continue;
        run_example(folder, program);
        n++;
    }
    closedir(examples);
    assert_true(n > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_examples)};
    if (system("command -v python3 >/dev/null")) {
        puts("skipped: no python3");
        return 0;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
