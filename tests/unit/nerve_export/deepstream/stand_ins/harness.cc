// Plays Gst-nvinferserver for tests: hands plain memory to the library and shows what it attached, as C functions.
#include <algorithm>
#include <memory>
#include <vector>

#include "gstnvdsinfer.h"
#include "infer_custom_process.h"
#include "nerve_meta.h"

namespace dsis = nvdsinferserver;

extern std::vector<NvDsUserMeta*> attached_metas;
extern "C" dsis::IInferCustomProcessor* CreateInferServerCustomProcess(const char* config, uint32_t config_length);

namespace {

class Buffer : public dsis::IBatchBuffer {
   public:
    Buffer(const char* name, const int* dims, int count, int element_bytes, bool on_gpu, void* memory) : memory_(memory) {
        description_.memType = on_gpu ? dsis::InferMemType::kGpuCuda : dsis::InferMemType::kCpu;
        description_.name = name;
        description_.elementSize = static_cast<uint32_t>(element_bytes);
        description_.dims.numDims = static_cast<unsigned>(count);
        std::copy(dims, dims + count, description_.dims.d);
    }
    const dsis::InferBufferDescription& getBufDesc() const override { return description_; }
    void* getBufPtr(uint32_t) const override { return memory_; }

   private:
    dsis::InferBufferDescription description_{};
    void* memory_;
};

class Array : public dsis::IBatchArray {
   public:
    std::vector<std::unique_ptr<Buffer>> buffers;
    uint32_t getSize() const override { return static_cast<uint32_t>(buffers.size()); }
    const dsis::IBatchBuffer* getBuffer(uint32_t index) const override { return buffers[index].get(); }
};

class Options : public dsis::IOptions {
   public:
    std::vector<void*> frames;

   protected:
    const std::vector<void*>* pointers(const std::string& name) const override {
        return name == OPTION_NVDS_FRAME_META_LIST ? &frames : nullptr;
    }
};

std::unique_ptr<dsis::IInferCustomProcessor> processor;

}  // namespace

extern "C" {

void open_processor() { processor.reset(CreateInferServerCustomProcess("", 0)); }
void close_processor() { processor.reset(); }

int fill_input(const char* name, const int* dims, int count, int element_bytes, void* memory) {
    Buffer buffer(name, dims, count, element_bytes, false, memory);
    std::vector<dsis::IBatchBuffer*> extra = {&buffer};
    return processor->extraInputProcess({}, extra, nullptr);
}

// `kinds` bit 0: the labels lie on the GPU, bit 1: nvinferserver gives no frames.
int finish(const int* dims, int count, int label_bytes, void* labels, void* confidence, int frames, int kinds) {
    NvDsBatchMeta batch{};
    std::vector<NvDsFrameMeta> metas(static_cast<size_t>(frames));
    Options options;
    for (NvDsFrameMeta& meta : metas) {
        meta.base_meta.batch_meta = &batch;
        options.frames.push_back(&meta);
    }
    Array outputs;
    outputs.buffers.push_back(std::make_unique<Buffer>("confidence", dims, count, 1, false, confidence));
    outputs.buffers.push_back(std::make_unique<Buffer>("labels", dims, count, label_bytes, (kinds & 1) != 0, labels));
    const int status = processor->inferenceDone(&outputs, (kinds & 2) != 0 ? nullptr : &options);
    const bool all_done = std::all_of(metas.begin(), metas.end(), [](const NvDsFrameMeta& meta) { return meta.bInferDone == 1; });
    return status == NVDSINFER_SUCCESS && (!all_done || batch.is_locked != 0) ? -1 : status;
}

int attached() { return static_cast<int>(attached_metas.size()); }

// Reads a frame's metas through a copy, as a tee in a pipeline makes it, whose original is gone.
void read_frame(int frame, int* facts, int* classes, uint8_t* confidence) {
    for (int kind = 0; kind < 2; ++kind) {
        NvDsUserMeta* original = attached_metas[static_cast<size_t>(2 * frame + kind)];
        NvDsUserMeta copy = *original;
        copy.user_meta_data = original->base_meta.copy_func(original, nullptr);
        original->base_meta.release_func(original, nullptr);
        facts[3 + kind] = copy.base_meta.meta_type;
        if (kind == 0) {
            const auto* meta = static_cast<const NvDsInferSegmentationMeta*>(copy.user_meta_data);
            facts[0] = static_cast<int>(meta->classes);
            facts[1] = static_cast<int>(meta->height);
            facts[2] = static_cast<int>(meta->width);
            std::copy(meta->class_map, meta->class_map + meta->height * meta->width, classes);
        } else {
            const auto* meta = static_cast<const NerveConfidence*>(copy.user_meta_data);
            std::copy(meta->confidence, meta->confidence + meta->height * meta->width, confidence);
        }
        copy.base_meta.release_func(&copy, nullptr);
        delete original;
    }
}
}
