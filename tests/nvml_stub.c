/* A libnvidia-ml.so.1 for tests: two GPUs, whose state is what the file named by NVML_STUB says at each call.
 *
 *   ok        both answer everything
 *   lost      the second one has fallen off the bus: NVML_ERROR_GPU_IS_LOST
 *   old       neither can tell its energy: NVML_ERROR_NOT_SUPPORTED
 *   unknown   the second one does not know its power: NVML_ERROR_UNKNOWN
 *   uncountable   how many there are is NVML_ERROR_UNKNOWN
 *   half      the second one hangs when its power is asked for, the first has answered by then
 *   hang      nothing answers until the file says something else
 *   nodriver  the library is there and the driver is not: NVML_ERROR_DRIVER_NOT_LOADED
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS = 0, NOT_SUPPORTED = 3, DRIVER_NOT_LOADED = 9, GPU_IS_LOST = 15, UNKNOWN = 999 };

typedef struct { int number; } Device;
static Device devices[2] = {{0}, {1}};

static void state(char text[32]) {
    FILE *file = fopen(getenv("NVML_STUB"), "r");
    if (!file || !fgets(text, 32, file)) strcpy(text, "ok");
    if (file) fclose(file);
}

static int is(const char *wanted) {
    char text[32];
    state(text);
    while (!strcmp(text, "hang") || (!strcmp(text, "half") && !strcmp(wanted, "unknown"))) {
        usleep(5000);
        state(text);
    }
    return !strcmp(text, wanted);
}

static int gone(Device *device) { return device->number == 1 && is("lost") ? GPU_IS_LOST : SUCCESS; }

int nvmlInitWithFlags(unsigned flags) { return is("nodriver") ? DRIVER_NOT_LOADED : SUCCESS; }

const char *nvmlErrorString(int code) { return code == GPU_IS_LOST ? "GPU is lost" : "some error"; }

int nvmlDeviceGetCount_v2(unsigned *count) {
    *count = 2;
    return is("uncountable") ? UNKNOWN : SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, Device **device) {
    *device = &devices[index];
    return SUCCESS;
}

int nvmlDeviceGetUUID(Device *device, char *uuid, unsigned length) {
    snprintf(uuid, length, "GPU-%d", device->number);
    return gone(device);
}

int nvmlDeviceGetUtilizationRates(Device *device, unsigned *rates) {
    rates[0] = 75 + device->number;
    rates[1] = 10;
    return gone(device);
}

int nvmlDeviceGetMemoryInfo(Device *device, unsigned long long *memory) {
    memory[0] = 80ull << 30;
    memory[1] = 70ull << 30;
    memory[2] = 10ull << 30;
    return gone(device);
}

int nvmlDeviceGetPowerUsage(Device *device, unsigned *milliwatts) {
    *milliwatts = 250500;
    return device->number == 1 && is("unknown") ? UNKNOWN : gone(device);
}

int nvmlDeviceGetEnforcedPowerLimit(Device *device, unsigned *milliwatts) {
    *milliwatts = 700000;
    return gone(device);
}

int nvmlDeviceGetTotalEnergyConsumption(Device *device, unsigned long long *millijoules) {
    *millijoules = 123456789012ull;
    return is("old") ? NOT_SUPPORTED : gone(device);
}

int nvmlDeviceGetTemperature(Device *device, int sensor, unsigned *celsius) {
    *celsius = 40 + device->number;
    return gone(device);
}
