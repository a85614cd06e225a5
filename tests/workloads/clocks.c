/* Monotonic and boot time go on where they were: not back, and not ahead by the time it was dead. */
#include "workload.h"

int main(int argc, char **argv)
{
    begin(argc, argv);
    double monotonic = seconds(CLOCK_MONOTONIC), boot = seconds(CLOCK_BOOTTIME);
    double real = seconds(CLOCK_REALTIME);
    double offset = boot - monotonic;
    ready_then_go();
    double monotonic_ran = seconds(CLOCK_MONOTONIC) - monotonic;
    double boot_ran = seconds(CLOCK_BOOTTIME) - boot, real_ran = seconds(CLOCK_REALTIME) - real;
    CHECK(monotonic_ran > 0 && boot_ran > 0, "ran %f and %f s", monotonic_ran, boot_ran);
    CHECK(monotonic_ran < real_ran + 0.5, "monotonic time ran %f s, real time %f", monotonic_ran,
          real_ran);
    double drift = seconds(CLOCK_BOOTTIME) - seconds(CLOCK_MONOTONIC) - offset;
    CHECK(drift > -0.01 && drift < 0.01, "boot and monotonic time drifted by %f s", drift);
    pass();
}
