#include "worker/crash.h"

#ifdef CRASH_POINTS
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void crash_point(const char *name)
{
    static _Atomic unsigned reached;
    const char *path = getenv("TRIGGERFLOW_CRASH_FILE");
    FILE *file = path ? fopen(path, "re") : NULL;
    if (!file)
        return;
    char wanted[64] = "";
    unsigned count = 0;
    int n = fscanf(file, "%63s %u", wanted, &count);
    fclose(file);
    if (n != 2 || strcmp(wanted, name) || atomic_fetch_add(&reached, 1) + 1 < count)
        return;
    if (unlink(path) == 0) {
        if (!strncmp(name, "fault_", 6))
            raise(SIGSEGV);
        kill(getpid(), SIGKILL);
    }
}
#else
typedef int crash_points_are_off; /* ISO C wants a declaration in every file */
#endif
