/* Linked into the programs of SAN=asan only. Beside AddressSanitizer, gcc's UndefinedBehaviorSanitizer
 * ignores log_path and reports on standard error, where nobody may look: sets its report file by hand. */
#include <dlfcn.h>
#include <stdlib.h>

__attribute__((constructor)) static void set_report_path(void)
{
    const char *path = getenv("UBSAN_REPORTS");
    void *library = path ? dlopen("libubsan.so.1", RTLD_LAZY | RTLD_NOLOAD) : NULL;
    void *function = library ? dlsym(library, "__sanitizer_set_report_path") : NULL;
    if (function)
        ((void (*)(const char *))function)(path);
}
