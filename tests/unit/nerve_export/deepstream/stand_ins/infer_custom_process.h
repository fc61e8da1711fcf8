// Stand-in for DeepStream's infer_custom_process.h and the headers below it: only what our library names, after the
// public API reference.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "nvdsinfer.h"

#define OPTION_NVDS_FRAME_META_LIST "nvds_frame_meta_list"

namespace nvdsinferserver {

enum class InferMemType : int { kNone = 0, kGpuCuda = 1, kCpu = 2, kCpuCuda = 3 };
enum class InferDataType : int { kFp32 = 0, kUint8 = 8, kUint16 = 9, kInt64 = 12, kBool = 15 };

struct InferDims {
    unsigned int numDims = 0;
    int d[NVDSINFER_MAX_DIMS] = {0};
    unsigned int numElements = 0;
};

struct InferBufferDescription {
    InferMemType memType;
    long int devId;
    InferDataType dataType;
    InferDims dims;
    uint32_t elementSize;
    std::string name;
    bool isInput;
};

class IBatchBuffer {
   public:
    virtual ~IBatchBuffer() = default;
    virtual const InferBufferDescription& getBufDesc() const = 0;
    virtual void* getBufPtr(uint32_t batch_index) const = 0;
};

class IBatchArray {
   public:
    virtual ~IBatchArray() = default;
    virtual uint32_t getSize() const = 0;
    virtual const IBatchBuffer* getBuffer(uint32_t index) const = 0;
};

class IOptions {
   public:
    virtual ~IOptions() = default;

    template <typename Value>
    NvDsInferStatus getValueArray(const std::string& name, std::vector<Value>& values) const {
        const std::vector<void*>* found = pointers(name);
        if (found == nullptr) return NVDSINFER_CONFIG_FAILED;
        for (void* each : *found) values.push_back(static_cast<Value>(each));
        return NVDSINFER_SUCCESS;
    }

   protected:
    virtual const std::vector<void*>* pointers(const std::string& name) const = 0;
};

class IInferCustomProcessor {
   public:
    virtual ~IInferCustomProcessor() = default;
    virtual void supportInputMemType(InferMemType& type) { type = InferMemType::kCpu; }
    virtual bool requireInferLoop() const { return false; }
    virtual NvDsInferStatus extraInputProcess(const std::vector<IBatchBuffer*>& primary_inputs,
                                              std::vector<IBatchBuffer*>& extra_inputs, const IOptions* options) = 0;
    virtual NvDsInferStatus inferenceDone(const IBatchArray* outputs, const IOptions* options) = 0;
    virtual void notifyError(NvDsInferStatus status) = 0;
};

}  // namespace nvdsinferserver
