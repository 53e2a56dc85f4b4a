// Loaded before the C library: no fork succeeds.
#include <errno.h>

int fork(void) {
    errno = EAGAIN;
    return -1;
}
