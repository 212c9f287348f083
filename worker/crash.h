/* Named crash points, compiled in only with CRASH_POINTS (make SAN=crash): the crash tests kill the process
 * at each of them. The file named by TRIGGERFLOW_CRASH_FILE holds "NAME COUNT"; the COUNT-th time that the
 * point NAME is reached the file is removed and the process kills itself, so that its successor lives.
 * Thread: any. */
#pragma once

#ifdef CRASH_POINTS
void crash_point(const char *name);
#else
static inline void crash_point(const char *name)
{
    (void)name;
}
#endif
